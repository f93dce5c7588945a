//! The one JSON object that `--json` prints, whatever happens: what every command says of itself, and what it
//! found.

use std::ffi::OsString;
use std::path::Path;

use clap::{ArgAction, ArgMatches};
use serde::Serialize;
use serde_json::{Map, Number, Value, json};

/// The program's.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a run says of itself, collected while it runs.
#[derive(Debug, Default)]
pub(super) struct Envelope {
    /// `strip`, `model info`; `None` where the command line names no command.
    pub command: Option<String>,
    /// Options as run: given ones and defaults.
    pub options: Map<String, Value>,
    /// Name and SHA-256 of the weights in use.
    pub model: Option<[String; 2]>,
    /// `FILE: what is odd`, as on stderr.
    pub warnings: Vec<String>,
    /// What failed, as on stderr.
    pub errors: Vec<String>,
    /// The command's own entries.
    body: Map<String, Value>,
    /// The object is out: there is one only.
    closed: bool,
}

impl Envelope {
    /// Adds the entries of an object; those of the envelope keep their meaning.
    pub fn extend(&mut self, object: &impl Serialize) -> serde_json::Result<()> {
        match serde_json::to_value(object)? {
            Value::Object(entries) => self.body.extend(entries),
            other => drop(self.body.insert("result".into(), other)),
        }
        Ok(())
    }

    /// The object, now that the command has ended; `done` unless anything failed. `None` once it has been taken.
    pub fn close(&mut self, done: bool) -> Option<Value> {
        if std::mem::replace(&mut self.closed, true) {
            return None;
        }
        let error = match &self.errors[..] {
            [] if done => Value::Null,
            [] => json!({ "message": "failed" }),
            [one] => json!({ "message": one }),
            [first, ..] => {
                json!({ "message": format!("{} failures, the first: {first}", self.errors.len()), "all": self.errors })
            }
        };
        let [model, sha256] = match &self.model {
            Some(known) => known.each_ref().map(|text| json!(text)),
            None => [Value::Null, Value::Null],
        };
        let mut object = Map::new();
        object.extend([
            ("version".to_owned(), json!(VERSION)),
            ("command".to_owned(), json!(self.command)),
            ("status".to_owned(), json!(if done { "ok" } else { "failed" })),
            ("error".to_owned(), error),
            ("model".to_owned(), model),
            ("model_sha256".to_owned(), sha256),
            ("options".to_owned(), json!(self.options)),
            ("warnings".to_owned(), json!(self.warnings)),
        ]);
        for (key, value) in &self.body {
            object.entry(key.clone()).or_insert_with(|| value.clone());
        }
        Some(Value::Object(object))
    }
}

/// A path as text: JSON is Unicode, names of files need not be.
pub(super) fn named(path: &Path) -> String {
    path.display().to_string()
}

/// Whether the command line asks for JSON, also where it cannot be parsed.
pub(super) fn is_asked_for(args: &[OsString]) -> bool {
    args.iter().skip(1).take_while(|arg| *arg != "--").any(|arg| arg == "--json")
}

/// The commands that a command line names, from the outermost, also where it cannot be parsed.
pub(super) fn named_commands(program: &clap::Command, args: &[OsString]) -> Vec<String> {
    let (mut names, mut at) = (Vec::new(), program);
    for arg in args.iter().skip(1).take_while(|arg| *arg != "--") {
        if let Some(command) = at.find_subcommand(arg) {
            names.push(command.get_name().to_owned());
            at = command;
        }
    }
    names
}

/// The options of a command as they are in force; those that are neither given nor have a default are left out.
pub(super) fn options_in_force(command: &clap::Command, matches: &ArgMatches) -> Map<String, Value> {
    let of_the_output = ["help", "version", "quiet", "json"];
    let mut options = Map::new();
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        if of_the_output.contains(&id) {
            continue;
        }
        let value = match arg.get_action() {
            ArgAction::SetTrue | ArgAction::SetFalse => Some(json!(matches.get_flag(id))),
            _ => matches.get_raw(id).map(|raw| {
                let mut values: Vec<Value> =
                    raw.map(|raw| value_of(matches, id, &raw.to_string_lossy())).collect();
                let several = matches!(arg.get_action(), ArgAction::Append)
                    || arg.get_num_args().is_some_and(|range| range.max_values() > 1)
                    || arg.get_value_delimiter().is_some();
                match values.len() {
                    1 if !several => values.remove(0),
                    _ => Value::Array(values),
                }
            }),
        };
        options.extend(value.map(|value| (arg.get_long().unwrap_or(id).to_owned(), value)));
    }
    options
}

/// A number where the option is one, else text.
fn value_of(matches: &ArgMatches, id: &str, raw: &str) -> Value {
    let is_number = matches.try_get_many::<f64>(id).is_ok()
        || matches.try_get_many::<f32>(id).is_ok()
        || matches.try_get_many::<usize>(id).is_ok()
        || matches.try_get_many::<u64>(id).is_ok()
        || matches.try_get_many::<u32>(id).is_ok();
    // JSON has no NaN and no infinity: they stay text.
    let number = is_number.then(|| raw.parse::<Number>().ok()).flatten();
    number.map_or_else(|| json!(raw), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_closed_once_and_keeps_its_own_entries() {
        let mut envelope = Envelope { errors: vec!["a: one".into(), "b: two".into()], ..Envelope::default() };
        envelope.extend(&json!({ "heads": 3, "status": "mine" })).unwrap();
        let object = envelope.close(false).unwrap();
        assert_eq!((&object["heads"], &object["status"]), (&json!(3), &json!("failed")));
        assert_eq!(object["error"]["message"], "2 failures, the first: a: one");
        assert_eq!(object["error"]["all"], json!(["a: one", "b: two"]));
        assert_eq!(envelope.close(true), None);
        // A failure without words is a failure all the same.
        assert!(Envelope::default().close(false).unwrap()["error"]["message"].is_string());
    }

    #[test]
    fn json_is_asked_for_before_the_files_begin() {
        let args = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(is_asked_for(&args("trephine strip a.nii --json")));
        assert!(!is_asked_for(&args("trephine strip -- --json")) && !is_asked_for(&args("trephine strip")));
    }
}
