//! The elements of a DICOM file: PS3.5 and PS3.10, implicit and explicit, of either byte order.
//!
//! Values are slices of the file's bytes and every length is checked against those that are there, so that a damaged one
//! takes no memory. Sequences are taken apart when somebody asks for their items.

use std::borrow::Cow;

/// A tag: group and element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag(pub u16, pub u16);

const ITEM: Tag = Tag(0xfffe, 0xe000);
const ITEM_END: Tag = Tag(0xfffe, 0xe00d);
const SEQUENCE_END: Tag = Tag(0xfffe, 0xe0dd);
const TRANSFER_SYNTAX: Tag = Tag(0x0002, 0x0010);
const PIXEL_DATA: Tag = Tag(0x7fe0, 0x0010);

/// Bytes before the first element: a preamble of no meaning, and the magic.
const PREAMBLE: usize = 128;
const MAGIC: &[u8] = b"DICM";

/// Bytes that a file must have to tell whether it is DICOM.
pub(super) const START: usize = PREAMBLE + MAGIC.len();

/// Sequences in sequences; real ones have five levels.
const DEEPEST: usize = 32;

/// Length of a value that ends with a delimiter.
const UNDEFINED: u32 = u32::MAX;

/// Whether a file that begins like this is DICOM.
pub(super) fn is_dicom(start: &[u8]) -> bool {
    start.get(PREAMBLE..).is_some_and(|rest| rest.starts_with(MAGIC))
}

/// What cannot be followed in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// A value runs past the last byte.
    Short,
    /// Something that no DICOM file has.
    Odd(&'static str),
}

/// How elements are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Encoding {
    /// Each element names its type.
    explicit: bool,
    big: bool,
}

const META: Encoding = Encoding { explicit: true, big: false };

impl Encoding {
    pub fn u16(self, bytes: [u8; 2]) -> u16 {
        if self.big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    pub fn u32(self, bytes: [u8; 4]) -> u32 {
        if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

/// How pixels are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Syntax {
    /// As they are, in this byte order.
    Plain { big: bool },
    /// PS3.5 annex G.
    RunLength,
    /// Baseline or lossless.
    Jpeg,
    /// Not read here, with its name.
    Other(Cow<'static, str>),
}

/// Names of transfer syntaxes that are not read here (PS3.6 annex A).
const OTHERS: [(&str, &str); 9] = [
    ("1.2.840.10008.1.2.1.99", "a deflated data set"),
    ("1.2.840.10008.1.2.4.51", "JPEG Extended"),
    ("1.2.840.10008.1.2.4.80", "JPEG-LS"),
    ("1.2.840.10008.1.2.4.81", "JPEG-LS"),
    ("1.2.840.10008.1.2.4.90", "JPEG 2000"),
    ("1.2.840.10008.1.2.4.91", "JPEG 2000"),
    ("1.2.840.10008.1.2.4.201", "High-Throughput JPEG 2000"),
    ("1.2.840.10008.1.2.4.202", "High-Throughput JPEG 2000"),
    ("1.2.840.10008.1.2.4.203", "High-Throughput JPEG 2000"),
];

impl Syntax {
    fn of(uid: &str) -> (Self, Encoding) {
        let (implicit, big) =
            (Encoding { explicit: false, big: false }, Encoding { explicit: true, big: true });
        match uid {
            "1.2.840.10008.1.2" => (Self::Plain { big: false }, implicit),
            "1.2.840.10008.1.2.1" => (Self::Plain { big: false }, META),
            "1.2.840.10008.1.2.2" => (Self::Plain { big: true }, big),
            "1.2.840.10008.1.2.5" => (Self::RunLength, META),
            "1.2.840.10008.1.2.4.50" | "1.2.840.10008.1.2.4.57" | "1.2.840.10008.1.2.4.70" => {
                (Self::Jpeg, META)
            }
            _ => {
                let known =
                    OTHERS.iter().find(|(other, _)| *other == uid).map(|(_, name)| Cow::Borrowed(*name));
                let name = known.unwrap_or_else(|| format!("transfer syntax {uid}").into());
                (Self::Other(name), META)
            }
        }
    }
}

/// An element with its value's bytes; of a value of undefined length, those up to its delimiter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    tag: Tag,
    value: &'a [u8],
    encoding: Encoding,
}

impl<'a> Element<'a> {
    /// The value as text, without the padding. Characters that are not ASCII come out as they may.
    pub fn text(&self) -> Cow<'a, str> {
        let is_padding = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
        let from = self.value.iter().position(|byte| !is_padding(byte)).unwrap_or(self.value.len());
        let to = self.value.iter().rposition(|byte| !is_padding(byte)).map_or(from, |last| last + 1);
        String::from_utf8_lossy(&self.value[from..to])
    }

    /// Decimal numbers, of which there must be `N`.
    pub fn decimals<const N: usize>(&self) -> Option<[f64; N]> {
        let text = self.text();
        let mut parts =
            text.split('\\').map(|part| part.trim().parse::<f64>().ok().filter(|v| v.is_finite()));
        let mut numbers = [0.0; N];
        for number in &mut numbers {
            *number = parts.next()??;
        }
        parts.next().is_none().then_some(numbers)
    }

    /// A whole number in decimals.
    pub fn integer(&self) -> Option<i64> {
        self.text().trim().parse().ok()
    }

    /// A binary number of 16 bits.
    pub fn unsigned(&self) -> Option<u16> {
        Some(self.encoding.u16(*self.value.first_chunk()?))
    }

    /// The items of a sequence.
    pub fn items(&self) -> Result<Vec<DataSet<'a>>, Broken> {
        let mut cursor = Cursor { bytes: self.value, at: 0, encoding: self.encoding };
        let mut items = Vec::new();
        while let Some(item) = cursor.item(0)? {
            items.push(DataSet::of(&mut Cursor { bytes: item, at: 0, encoding: self.encoding })?);
        }
        Ok(items)
    }
}

/// Elements in the order of the file, which is that of their tags.
#[derive(Debug, Default)]
pub(super) struct DataSet<'a>(Vec<Element<'a>>);

impl<'a> DataSet<'a> {
    fn of(cursor: &mut Cursor<'a>) -> Result<Self, Broken> {
        let mut elements = Vec::new();
        while cursor.at < cursor.bytes.len() {
            elements.push(cursor.element(0)?);
        }
        Ok(Self(elements))
    }

    /// Whether there is none: what follows the meta group may be compressed as a whole.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The element of this tag, unless it is empty.
    pub fn get(&self, tag: Tag) -> Option<&Element<'a>> {
        self.0.iter().find(|element| element.tag == tag && !element.value.is_empty())
    }
}

/// The pixels of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pixels<'a> {
    /// Frame after frame.
    Plain(&'a [u8]),
    /// Compressed, in fragments; the first item, a table of offsets, is not among them.
    Fragments(Vec<&'a [u8]>),
}

/// A file, or its beginning up to the pixels.
pub(super) struct File<'a> {
    /// How its pixels are stored.
    pub syntax: Syntax,
    /// What stands before the pixels.
    pub set: DataSet<'a>,
    /// At the pixels' element, where there is one.
    pixels: Option<Cursor<'a>>,
}

impl<'a> File<'a> {
    /// Reads all elements up to the pixels. [`Broken::Short`] where `bytes` end before: of a file's first bytes that says that
    /// there have to be more of them.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Broken> {
        if !is_dicom(bytes) {
            return Err(Broken::Odd("its magic is gone"));
        }
        let mut cursor = Cursor { bytes, at: START, encoding: META };
        let mut uid = None;
        while cursor.peek()?.is_some_and(|tag| tag.0 == 2) {
            let element = cursor.element(0)?;
            if element.tag == TRANSFER_SYNTAX {
                uid = Some(element.text());
            }
        }
        let uid = uid.ok_or(Broken::Odd("it does not name its transfer syntax"))?;
        let (syntax, encoding) = Syntax::of(&uid);
        let mut elements = Vec::new();
        let mut pixels = None;
        // Of a deflated data set nothing can be read.
        if uid != OTHERS[0].0 {
            cursor.encoding = encoding;
            while let Some(tag) = cursor.peek()? {
                if tag >= PIXEL_DATA {
                    pixels = (tag == PIXEL_DATA).then_some(cursor);
                    break;
                }
                elements.push(cursor.element(0)?);
            }
        }
        Ok(Self { syntax, set: DataSet(elements), pixels })
    }

    /// Whether there is an element of pixels.
    pub fn has_pixels(&self) -> bool {
        self.pixels.is_some()
    }

    /// The pixels; plain ones that the file breaks off in are those that are there.
    pub fn pixels(&self) -> Result<Pixels<'a>, Broken> {
        let mut cursor = self.pixels.ok_or(Broken::Odd("it has no pixels"))?;
        let (_, _, length) = cursor.header()?;
        if length != UNDEFINED {
            let rest = &cursor.bytes[cursor.at..];
            return Ok(Pixels::Plain(&rest[..rest.len().min(length as usize)]));
        }
        let mut fragments = Vec::new();
        while let Some(fragment) = cursor.item(0)? {
            fragments.push(fragment);
        }
        if fragments.is_empty() {
            return Err(Broken::Odd("its pixels are empty"));
        }
        fragments.remove(0);
        Ok(Pixels::Fragments(fragments))
    }
}

#[derive(Debug, Clone, Copy)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    encoding: Encoding,
}

impl<'a> Cursor<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk()).ok_or(Broken::Short)?;
        self.at += N;
        Ok(*taken)
    }

    fn slice(&mut self, length: u32) -> Result<&'a [u8], Broken> {
        let to = self.at.checked_add(length as usize).ok_or(Broken::Short)?;
        let slice = self.bytes.get(self.at..to).ok_or(Broken::Short)?;
        self.at = to;
        Ok(slice)
    }

    fn tag(&mut self) -> Result<Tag, Broken> {
        let encoding = self.encoding;
        Ok(Tag(encoding.u16(self.take()?), encoding.u16(self.take()?)))
    }

    /// The tag of the next element; `None` at the end. What follows group 2 may be in another byte order, which does
    /// not matter to whether it is of group 2.
    fn peek(&self) -> Result<Option<Tag>, Broken> {
        if self.at == self.bytes.len() { Ok(None) } else { self.clone().tag().map(Some) }
    }

    /// Tag, type and length of the next element. Delimiters and items have no type.
    fn header(&mut self) -> Result<(Tag, [u8; 2], u32), Broken> {
        let tag = self.tag()?;
        if !self.encoding.explicit || tag.0 == ITEM.0 {
            return Ok((tag, [0; 2], self.encoding.u32(self.take()?)));
        }
        let vr: [u8; 2] = self.take()?;
        let length = match &vr {
            b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT"
            | b"UV" => {
                self.take::<2>()?;
                self.encoding.u32(self.take()?)
            }
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => {
                self.encoding.u16(self.take()?).into()
            }
            _ => return Err(Broken::Odd("an element is of no known type")),
        };
        Ok((tag, vr, length))
    }

    fn element(&mut self, depth: usize) -> Result<Element<'a>, Broken> {
        let (tag, vr, length) = self.header()?;
        // Of unknown type and undefined length: a sequence written without types.
        let encoding = match length == UNDEFINED && vr == *b"UN" {
            true => Encoding { explicit: false, big: false },
            false => self.encoding,
        };
        let value = match length {
            UNDEFINED => {
                let mut inner = Self { encoding, ..*self };
                let value = inner.until(SEQUENCE_END, depth, |inner| inner.item(depth + 1).map(drop))?;
                self.at = inner.at;
                value
            }
            length => self.slice(length)?,
        };
        Ok(Element { tag, value, encoding })
    }

    /// The content of the next item of a sequence; `None` where there is none left.
    fn item(&mut self, depth: usize) -> Result<Option<&'a [u8]>, Broken> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        match self.header()? {
            (ITEM, _, UNDEFINED) => {
                self.until(ITEM_END, depth, |inner| inner.element(depth + 1).map(drop)).map(Some)
            }
            (ITEM, _, length) => self.slice(length).map(Some),
            (SEQUENCE_END, ..) => Ok(None),
            _ => Err(Broken::Odd("a sequence holds what is no item")),
        }
    }

    /// The bytes up to the delimiter `end`, which is passed over with them.
    fn until(
        &mut self,
        end: Tag,
        depth: usize,
        mut skip: impl FnMut(&mut Self) -> Result<(), Broken>,
    ) -> Result<&'a [u8], Broken> {
        if depth > DEEPEST {
            return Err(Broken::Odd("its sequences are nested too deep"));
        }
        let from = self.at;
        loop {
            let to = self.at;
            match self.peek()? {
                Some(tag) if tag == end => {
                    self.header()?;
                    return Ok(&self.bytes[from..to]);
                }
                Some(_) => skip(self)?,
                None => return Err(Broken::Short),
            }
        }
    }
}
