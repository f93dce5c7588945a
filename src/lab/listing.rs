//! What the machine code of a kernel says, as AMD's compiler prints it: its hottest block by kind of instruction, the bytes
//! that it moves, and the bound that follows.

use serde::{Deserialize, Serialize};

/// A basic block by kind of instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Multiply-adds of a lane; two in an instruction that packs or pairs them.
    pub multiply_adds: usize,
    /// Instructions of the vector units, multiply-adds among them.
    pub vector: usize,
    /// Loads and stores of lanes beyond the workgroup.
    pub memory: usize,
    /// Accesses to workgroup memory.
    pub workgroup: usize,
    /// Loads through the scalar cache.
    pub scalar_loads: usize,
    /// All instructions.
    pub all: usize,
    /// Bytes that a lane loads and stores in `memory`.
    pub memory_bytes: usize,
    /// Bytes that a lane moves in `workgroup`.
    pub workgroup_bytes: usize,
    /// Bytes that a wave loads in `scalar_loads`.
    pub scalar_bytes: usize,
    /// Bytes of the narrowest access in `memory`.
    pub narrowest: Option<usize>,
}

/// Starts of the names of instructions that multiply and add.
const MULTIPLY_ADD: [&str; 7] =
    ["v_fma", "v_fmac", "v_mac_f", "v_dual_fmac", "v_dual_fmaak", "v_pk_fma", "v_pk_fmac"];
/// Bytes that a compute unit gets from its workgroup memory, and from its first cache, in the time of one multiply-add on each
/// of its 64 lanes: 128 bytes a cycle both.
const BYTES_PER_MULTIPLY_ADD: f64 = 2.0;

impl Block {
    /// Counts a line of the listing, if it is an instruction.
    fn count(&mut self, line: &str) {
        // Two operations that issue as one are parted by two colons.
        let operations: Vec<&str> =
            line.split("::").filter_map(|part| part.split_whitespace().next()).collect();
        let Some(&name) = operations.first() else { return };
        let starts = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
        if !starts(&["s_", "v_", "ds_", "buffer_", "global_", "flat_", "scratch_", "image_"]) {
            return;
        }
        self.all += 1;
        let bytes = bytes_of(name);
        if name.starts_with("v_") {
            self.vector += 1;
            for operation in operations {
                if MULTIPLY_ADD.iter().any(|start| operation.starts_with(start)) {
                    self.multiply_adds += if operation.starts_with("v_pk") { 2 } else { 1 };
                }
            }
        } else if starts(&["ds_read", "ds_write", "ds_load", "ds_store"]) {
            self.workgroup += 1;
            self.workgroup_bytes += bytes;
        } else if starts(&["s_load", "s_buffer_load"]) {
            self.scalar_loads += 1;
            self.scalar_bytes += bytes;
        } else if name.contains("_load_") || name.contains("_store_") {
            self.memory += 1;
            self.memory_bytes += bytes;
            self.narrowest = Some(self.narrowest.map_or(bytes, |least| least.min(bytes)));
        }
    }

    /// The largest share of a GPU's multiply-adds that the block allows, and what sets it: issue to the vector units, workgroup
    /// memory, or the first cache, at their full rates and without a stall. `None` without multiply-adds.
    pub fn bound(&self) -> Option<(f64, &'static str)> {
        if self.multiply_adds == 0 {
            return None;
        }
        let multiply_adds = self.multiply_adds as f64;
        let of_bytes = |bytes: usize| multiply_adds * BYTES_PER_MULTIPLY_ADD / bytes.max(1) as f64;
        [
            (multiply_adds / self.vector as f64, "vector issue"),
            (of_bytes(self.workgroup_bytes), "workgroup memory"),
            (of_bytes(self.memory_bytes), "first cache"),
        ]
        .into_iter()
        .min_by(|a, b| a.0.total_cmp(&b.0))
    }
}

/// Bytes that a lane, or a wave in a scalar load, moves.
fn bytes_of(name: &str) -> usize {
    let pair =
        if name.contains("read2") || name.contains("write2") || name.contains("_2addr") { 2 } else { 1 };
    let words = name.rsplit_once("dword").map(|(_, count)| match count.strip_prefix('x') {
        Some(count) => count.parse().unwrap_or(1),
        None => 1,
    });
    let one = match words {
        Some(words) => 4 * words,
        None if name.contains("byte")
            || name.contains("_u8")
            || name.contains("_i8")
            || name.contains("_b8") =>
        {
            1
        }
        None if name.contains("short") || name.contains("16") => 2,
        None => {
            let bits = name.rsplit_once("_b").and_then(|(_, bits)| bits.parse::<usize>().ok());
            bits.map_or(4, |bits| bits / 8)
        }
    };
    pair * one
}

/// The block with most multiply-adds; without any, the one with most accesses to memory.
pub fn hottest_block(listing: &str) -> Block {
    let mut blocks = vec![Block::default()];
    for line in listing.lines() {
        let line = line.trim_start();
        let label = line.split_once(':').is_some_and(|(label, _)| {
            label.strip_prefix("BB").is_some_and(|number| number.bytes().all(|c| c.is_ascii_digit()))
        });
        if label {
            blocks.push(Block::default());
        } else if let Some(block) = blocks.last_mut() {
            block.count(line);
        }
    }
    // Of several the first, as max_by_key takes the last.
    let weight = |block: &Block| (block.multiply_adds, block.memory);
    blocks.into_iter().rev().max_by_key(weight).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RDNA2: &str = "BB0:
\ts_load_dwordx4 s[0:3], s[4:5], 0x0                          ; f4080002 fa000000
BB1:
\ts_buffer_load_dwordx8 s[8:15], s[0:3], s6                   ; 1
\tbuffer_load_dwordx4 v[0:3], v4, s[0:3], 0 offen             ; 2
\tds_read2_b32 v[5:6], v7 offset0:1                           ; 3
\ts_waitcnt vmcnt(0)                                          ; 4
\tv_fmac_f32_e32 v8, s8, v0                                   ; 5
\tv_fma_f32 v9, v1, s9, v9                                    ; 6
\tv_add_nc_u32_e32 v4, 16, v4                                 ; 7
\ts_cbranch_scc1 BB1                                          ; 8
BB2:
\tbuffer_store_dword v8, v4, s[0:3], 0 offen                  ; 9
\ts_endpgm                                                    ; a
";

    #[test]
    fn the_hottest_block_is_counted_by_kind() {
        let want = Block {
            multiply_adds: 2,
            vector: 3,
            memory: 1,
            workgroup: 1,
            scalar_loads: 1,
            all: 8,
            memory_bytes: 16,
            workgroup_bytes: 8,
            scalar_bytes: 32,
            narrowest: Some(16),
        };
        let block = hottest_block(RDNA2);
        assert_eq!(block, want);
        // 16 bytes for 2 multiply-adds are four times what the first cache gives.
        assert_eq!(block.bound(), Some((0.25, "first cache")));
    }

    #[test]
    fn instructions_that_issue_as_one_count_as_two_multiply_adds() {
        let listing = "BB0:
            v_dual_fmac_f32 v1, s1, v2 :: v_dual_fmac_f32 v3, s2, v4
            v_dual_mul_f32 v1, s1, v2 :: v_dual_fmac_f32 v3, s2, v4
            v_pk_fma_f16 v1, v2, v3, v4";
        let block = hottest_block(listing);
        assert_eq!((block.multiply_adds, block.vector, block.all), (5, 3, 3));
        assert_eq!(block.bound(), Some((5.0 / 3.0, "vector issue")));
    }

    #[test]
    fn without_multiply_adds_the_block_that_moves_most_counts() {
        let block = hottest_block(&RDNA2.replace("v_fma", "v_mul").replace("BB0", "BB7"));
        assert_eq!((block.multiply_adds, block.memory_bytes), (0, 16));
        assert_eq!(block.bound(), None);
    }

    #[test]
    fn names_tell_the_bytes() {
        for (name, bytes) in [
            ("buffer_load_dword", 4),
            ("global_load_dwordx3", 12),
            ("buffer_load_b128", 16),
            ("ds_read_b64", 8),
            ("ds_load_2addr_b32", 8),
            ("ds_read2st64_b32", 8),
            ("buffer_load_ushort", 2),
            ("buffer_load_d16_b16", 2),
            ("global_load_u8", 1),
            ("s_buffer_load_dwordx16", 64),
            ("s_load_b512", 64),
        ] {
            assert_eq!(bytes_of(name), bytes, "{name}");
        }
    }
}
