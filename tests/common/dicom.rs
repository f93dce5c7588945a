//! DICOM series, element by element and independent of the code under test.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const MR_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.4";
const ENHANCED_MR_IMAGE: &str = "1.2.840.10008.5.1.4.1.1.4.1";

/// A name that no output may hold.
pub const PATIENT: &str = "Doe^Jane";

/// A series to write. All slices are written alike but for what `edit` changes.
#[derive(Clone)]
pub struct Scan {
    pub columns: usize,
    pub rows: usize,
    pub slices: usize,
    /// Directions of a row and of a column, left posterior superior.
    pub orientation: [f64; 6],
    /// Between rows, and between columns.
    pub spacing: [f64; 2],
    /// First pixel of the first slice, and from there to the next.
    pub origin: [f64; 3],
    pub step: [f64; 3],
    pub syntax: &'static str,
    pub uid: &'static str,
    pub number: i32,
    pub description: &'static str,
    /// Pixels of all slices, one after the other.
    pub values: Vec<u16>,
}

impl Scan {
    /// Sagittal, tilted by 0.2 about the x axis, 11 x 9 x 7 voxels of 0.9 x 1.1 x 1.3 mm.
    pub fn new() -> Self {
        let (c, s) = (0.2_f64.cos(), 0.2_f64.sin());
        Self {
            columns: 11,
            rows: 9,
            slices: 7,
            orientation: [0.0, c, -s, 0.0, -s, -c],
            spacing: [1.1, 0.9],
            origin: [4.5, -12.0, 21.0],
            step: [-1.3, 0.0, 0.0],
            syntax: EXPLICIT,
            uid: "1.2.3.4",
            number: 3,
            description: "t1 sag",
            values: (0..11 * 9 * 7).map(|v| v * 5 + 1).collect(),
        }
    }

    pub fn position(&self, slice: usize) -> [f64; 3] {
        std::array::from_fn(|i| self.origin[i] + self.step[i] * slice as f64)
    }

    pub fn pixels(&self, slice: usize) -> &[u16] {
        let pixels = self.columns * self.rows;
        &self.values[slice * pixels..(slice + 1) * pixels]
    }

    /// World coordinates (right anterior superior) of a pixel.
    pub fn world(&self, [column, row, slice]: [usize; 3]) -> [f64; 3] {
        let position = self.position(slice);
        let lps: [f64; 3] = std::array::from_fn(|i| {
            position[i]
                + self.orientation[i] * self.spacing[1] * column as f64
                + self.orientation[3 + i] * self.spacing[0] * row as f64
        });
        [-lps[0], -lps[1], lps[2]]
    }

    /// The elements of a file but for its pixels and their place.
    fn common(&self, class: &str, instance: usize) -> Object {
        let mut object = Object::default();
        object.text((8, 0x08), "CS", "ORIGINAL\\PRIMARY\\M\\ND");
        object.text((8, 0x16), "UI", class);
        object.text((8, 0x18), "UI", &format!("{}.{instance}", self.uid));
        object.text((8, 0x20), "DA", "20200102");
        object.text((8, 0x30), "TM", "101500");
        object.text((8, 0x60), "CS", "MR");
        object.text((8, 0x70), "LO", "SIEMENS");
        object.text((8, 0x103e), "LO", self.description);
        object.text((0x10, 0x10), "PN", PATIENT);
        object.text((0x10, 0x20), "LO", PATIENT);
        object.text((0x18, 0x50), "DS", "1.3");
        object.text((0x20, 0x0d), "UI", "1.2.3");
        object.text((0x20, 0x0e), "UI", self.uid);
        object.text((0x20, 0x11), "IS", &self.number.to_string());
        object.text((0x20, 0x13), "IS", &instance.to_string());
        object.number((0x28, 0x02), 1);
        object.text((0x28, 0x04), "CS", "MONOCHROME2");
        object.number((0x28, 0x10), self.rows as u16);
        object.number((0x28, 0x11), self.columns as u16);
        object.number((0x28, 0x100), 16);
        object.number((0x28, 0x101), 16);
        object.number((0x28, 0x102), 15);
        object.number((0x28, 0x103), 0);
        object
    }

    /// Writes a file a slice, named so that their order says nothing.
    pub fn write(&self, folder: &Path) {
        self.write_with(folder, |_, _| {});
    }

    /// The same after `edit` of each, by its place in the stack.
    pub fn write_with(&self, folder: &Path, edit: impl Fn(usize, &mut Object)) {
        fs::create_dir_all(folder).expect("the folder can be made");
        for slice in 0..self.slices {
            let mut object = self.common(MR_IMAGE, slice + 1);
            object.decimals((0x20, 0x32), &self.position(slice));
            object.decimals((0x20, 0x37), &self.orientation);
            object.decimals((0x28, 0x30), &self.spacing);
            object.pixels(self.pixels(slice));
            edit(slice, &mut object);
            let file = folder.join(format!("{}_{}.dcm", self.number, (slice * 5 + 3) % 101));
            fs::write(file, object.bytes(self.syntax)).expect("the file can be written");
        }
    }

    /// Writes one file of many frames, as enhanced MR has it, last slice first.
    pub fn write_enhanced(&self, file: &Path) {
        let mut object = self.common(ENHANCED_MR_IMAGE, 1);
        let sequence = |tag, inner: Object| {
            let mut object = Object::default();
            object.items(tag, vec![inner]);
            object
        };
        let (mut orientation, mut spacing) = (Object::default(), Object::default());
        orientation.decimals((0x20, 0x37), &self.orientation);
        spacing.decimals((0x28, 0x30), &self.spacing);
        let mut shared = sequence((0x20, 0x9116), orientation);
        shared.items((0x28, 0x9110), vec![spacing]);
        object.items((0x5200, 0x9229), vec![shared]);
        let frames = (0..self.slices).rev().map(|slice| {
            let mut position = Object::default();
            position.decimals((0x20, 0x32), &self.position(slice));
            sequence((0x20, 0x9113), position)
        });
        object.items((0x5200, 0x9230), frames.collect());
        object.text((0x28, 0x08), "IS", &self.slices.to_string());
        let values: Vec<u16> = (0..self.slices).rev().flat_map(|slice| self.pixels(slice)).copied().collect();
        object.pixels(&values);
        fs::write(file, object.bytes(self.syntax)).expect("the file can be written");
    }
}

pub type Tag = (u16, u16);

#[derive(Clone)]
enum Content {
    Text(String),
    Numbers(Vec<u16>),
    Items(Vec<Object>),
    Fragments(Vec<Vec<u8>>),
}

/// Elements in the order of their tags.
#[derive(Clone, Default)]
pub struct Object(BTreeMap<Tag, (&'static str, Content)>);

impl Object {
    pub fn text(&mut self, tag: Tag, vr: &'static str, value: &str) {
        self.0.insert(tag, (vr, Content::Text(value.to_owned())));
    }

    pub fn decimals(&mut self, tag: Tag, values: &[f64]) {
        let texts: Vec<String> = values.iter().map(|v| format!("{v:.9}")).collect();
        self.text(tag, "DS", &texts.join("\\"));
    }

    pub fn number(&mut self, tag: Tag, value: u16) {
        self.0.insert(tag, ("US", Content::Numbers(vec![value])));
    }

    pub fn pixels(&mut self, values: &[u16]) {
        self.0.insert((0x7fe0, 0x10), ("OW", Content::Numbers(values.to_vec())));
    }

    /// Compressed pixels in the place of plain ones.
    pub fn fragments(&mut self, fragments: Vec<Vec<u8>>) {
        self.0.insert((0x7fe0, 0x10), ("OB", Content::Fragments(fragments)));
    }

    pub fn items(&mut self, tag: Tag, items: Vec<Object>) {
        self.0.insert(tag, ("SQ", Content::Items(items)));
    }

    pub fn remove(&mut self, tag: Tag) {
        self.0.remove(&tag);
    }

    /// The file: preamble, meta group, elements.
    pub fn bytes(&self, syntax: &str) -> Vec<u8> {
        let mut meta = Self::default();
        meta.text((2, 0x02), "UI", MR_IMAGE);
        meta.text((2, 0x03), "UI", "1.2.3.4.5");
        meta.text((2, 0x10), "UI", syntax);
        let meta = meta.encoded(true, false);
        let mut out = vec![0; 128];
        out.extend(b"DICM\x02\0\0\0UL\x04\0");
        out.extend((meta.len() as u32).to_le_bytes());
        out.extend(meta);
        out.extend(self.encoded(syntax != "1.2.840.10008.1.2", syntax == "1.2.840.10008.1.2.2"));
        out
    }

    fn encoded(&self, explicit: bool, big: bool) -> Vec<u8> {
        let two = |v: u16| if big { v.to_be_bytes() } else { v.to_le_bytes() };
        let four = |v: u32| if big { v.to_be_bytes() } else { v.to_le_bytes() };
        let tagged = |(group, element): Tag| [two(group), two(element)].concat();
        let part = |tag: Tag, length: u32| [tagged(tag), four(length).to_vec()].concat();
        let mut out = Vec::new();
        for (&tag, (vr, content)) in &self.0 {
            let value = match content {
                Content::Text(text) => {
                    let mut bytes = text.clone().into_bytes();
                    bytes.resize(bytes.len().next_multiple_of(2), if *vr == "UI" { 0 } else { b' ' });
                    bytes
                }
                Content::Numbers(values) => values.iter().flat_map(|v| two(*v)).collect(),
                // The lengths of items are given, that of the sequence is not.
                Content::Items(items) => {
                    let mut bytes = Vec::new();
                    for item in items {
                        let inner = item.encoded(explicit, big);
                        bytes.extend(part((0xfffe, 0xe000), inner.len() as u32));
                        bytes.extend(inner);
                    }
                    [bytes, part((0xfffe, 0xe0dd), 0)].concat()
                }
                Content::Fragments(fragments) => {
                    let mut bytes = part((0xfffe, 0xe000), 0);
                    for fragment in fragments {
                        bytes.extend(part((0xfffe, 0xe000), fragment.len() as u32));
                        bytes.extend(fragment);
                    }
                    [bytes, part((0xfffe, 0xe0dd), 0)].concat()
                }
            };
            let length = match content {
                Content::Items(_) | Content::Fragments(_) => u32::MAX,
                _ => value.len() as u32,
            };
            out.extend(tagged(tag));
            if !explicit {
                out.extend(four(length));
            } else if ["SQ", "OB", "OW"].contains(vr) {
                out.extend(vr.bytes().chain([0, 0]));
                out.extend(four(length));
            } else {
                out.extend(vr.bytes());
                out.extend(two(length as u16));
            }
            out.extend(value);
        }
        out
    }
}
