//! Any text as a training configuration: refused, or one that its check lets through and that makes a network's description.

#![no_main]

use libfuzzer_sys::fuzz_target;
use trephine::pipeline::train::config::TrainConfig;

fuzz_target!(|text: &str| {
    let Ok(config) = toml::from_str::<TrainConfig>(text) else { return };
    if config.check().is_ok() {
        // Without a model to begin with, only that can be missing.
        if let Ok(description) = config.description(None) {
            assert!(!description.layers.is_empty());
        }
        // What a run writes into its folder is what it does.
        let again = toml::to_string(&config).expect("serialises");
        assert!(toml::from_str::<TrainConfig>(&again).is_ok());
    }
});
