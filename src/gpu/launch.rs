//! The launch that a kernel states itself: a line `//! launch: X, Y, Z` in its source.
//!
//! Operators know the launches of our kernels. One that stands in for them may cut its work otherwise, and says so in a
//! header line: numbers of workgroups along x, y and z, or one number, which is folded on to y beyond 65,535 as
//! `flat_index` undoes it. A number is an expression of the fields of `Params`, of the module's integer constants (the
//! injected ones too) and of `groups.x`, `groups.y`, `groups.z`, the launch of the kernel that it stands in for; with
//! `+ - * /`, parentheses, `ceil`, `floor`, `min` and `max`.

use super::dispatch::{MAX_WORKGROUPS, Params, Scalar, fold};
use super::error::GpuError;
use super::shader::Replacement;

/// What begins a header line.
const HEADER: &str = "//!";
/// The only header that there is.
const LAUNCH: &str = "launch";

/// The number of workgroups that a kernel asks for.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    /// One expression or three.
    expressions: Vec<String>,
    /// File and line, for errors.
    at: String,
    /// Integer constants of the module.
    constants: Vec<(String, f64)>,
}

impl Launch {
    /// The launch that a source states, if it does.
    ///
    /// # Errors
    /// A header that is not understood, with its line.
    pub(super) fn of(
        path: &str,
        replacement: &Replacement,
        module: &naga::Module,
    ) -> Result<Option<Self>, GpuError> {
        let mut found: Option<Self> = None;
        for (ix, line) in replacement.source.lines().enumerate() {
            let Some(header) = line.trim_start().strip_prefix(HEADER) else { continue };
            let at = format!("{}:{}", replacement.file, ix + 1);
            let fail = |reason: &str| GpuError::Shader {
                path: path.to_owned(),
                reason: format!("{at}: {reason}\n  {}", line.trim()),
            };
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            if name.trim() != LAUNCH {
                return Err(fail(
                    "the only header line is `//! launch: X, Y, Z`; begin other comments with //",
                ));
            }
            if found.is_some() {
                return Err(fail("the launch is stated twice"));
            }
            let expressions = split(value);
            if !matches!(expressions.len(), 1 | 3) {
                return Err(fail("a launch is one number of workgroups, or three divided by commas"));
            }
            found = Some(Self { expressions, at, constants: constants(module) });
        }
        Ok(found)
    }

    /// Workgroups of a launch with these parameters, where the operator would launch `groups`.
    ///
    /// # Errors
    /// An expression that is not understood or does not give a number of workgroups.
    pub(super) fn workgroups(
        &self,
        path: &str,
        params: &Params,
        groups: [u32; 3],
    ) -> Result<[u32; 3], GpuError> {
        let known = self.names(params, groups);
        let number = |expression: &String| -> Result<u32, GpuError> {
            let value = Parser { text: expression, known: &known }.value();
            let whole = value.and_then(|value| match value {
                v if v >= 1.0 && v.fract() == 0.0 && v <= f64::from(u32::MAX) => Ok(v as u32),
                v => Err(format!("gives {v}, which is no number of workgroups; `ceil(a / b)` rounds up")),
            });
            whole.map_err(|reason| GpuError::Shader {
                path: path.to_owned(),
                reason: format!("{}: launch: `{expression}` {reason}", self.at),
            })
        };
        match self.expressions.as_slice() {
            [flat] => Ok(fold(number(flat)?)),
            all => {
                let numbers = all.iter().map(number).collect::<Result<Vec<u32>, _>>()?;
                let largest = numbers.iter().max().copied().unwrap_or_default();
                if largest > MAX_WORKGROUPS {
                    return Err(GpuError::Shader {
                        path: path.to_owned(),
                        reason: format!(
                            "{}: launch: {numbers:?} exceeds {MAX_WORKGROUPS} along an axis",
                            self.at
                        ),
                    });
                }
                Ok([numbers[0], numbers[1], numbers[2]])
            }
        }
    }

    /// Everything that an expression may name.
    fn names(&self, params: &Params, groups: [u32; 3]) -> Vec<(String, f64)> {
        let mut names = self.constants.clone();
        let mut add = |name: String, value: f64| names.push((name, value));
        for (field, value) in &params.0 {
            match value {
                Scalar::U32(v) => add((*field).to_owned(), f64::from(*v)),
                Scalar::I32(v) => add((*field).to_owned(), f64::from(*v)),
                Scalar::F32(v) => add((*field).to_owned(), f64::from(*v)),
                Scalar::F32x4(v) => {
                    "xyzw".chars().zip(v).for_each(|(c, v)| add(format!("{field}.{c}"), f64::from(*v)));
                }
                Scalar::U32x4(v) => {
                    "xyzw".chars().zip(v).for_each(|(c, v)| add(format!("{field}.{c}"), f64::from(*v)));
                }
                // Packing refuses the launch.
                Scalar::TooLarge => {}
            }
        }
        "xyz".chars().zip(groups).for_each(|(c, n)| add(format!("groups.{c}"), f64::from(n)));
        names
    }
}

/// The pieces between the commas that stand outside of parentheses.
fn split(text: &str) -> Vec<String> {
    let mut depth = 0i32;
    let pieces = text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    pieces.map(|piece| piece.trim().to_owned()).collect()
}

/// Module-scope integer constants by name.
fn constants(module: &naga::Module) -> Vec<(String, f64)> {
    let value = |constant: &naga::Constant| match module.global_expressions[constant.init] {
        naga::Expression::Literal(naga::Literal::U32(v)) => Some(f64::from(v)),
        naga::Expression::Literal(naga::Literal::I32(v)) => Some(f64::from(v)),
        naga::Expression::Literal(naga::Literal::AbstractInt(v)) => Some(v as f64),
        _ => None,
    };
    let named =
        module.constants.iter().filter_map(|(_, constant)| Some((constant.name.clone()?, value(constant)?)));
    named.collect()
}

/// Evaluates an expression from left to right; sums, products, and what binds tighter.
struct Parser<'a> {
    text: &'a str,
    known: &'a [(String, f64)],
}

impl Parser<'_> {
    fn value(mut self) -> Result<f64, String> {
        let value = self.sum()?;
        match self.text.trim() {
            "" => Ok(value),
            rest => Err(format!("is not understood from `{rest}` on")),
        }
    }

    /// Takes a character, if it is the next.
    fn take(&mut self, c: char) -> bool {
        let rest = self.text.trim_start().strip_prefix(c);
        if let Some(rest) = rest {
            self.text = rest;
        }
        rest.is_some()
    }

    fn expect(&mut self, c: char) -> Result<(), String> {
        if self.take(c) { Ok(()) } else { Err(format!("lacks a `{c}` before `{}`", self.text.trim())) }
    }

    fn sum(&mut self) -> Result<f64, String> {
        let mut value = self.product()?;
        loop {
            match () {
                () if self.take('+') => value += self.product()?,
                () if self.take('-') => value -= self.product()?,
                () => return Ok(value),
            }
        }
    }

    fn product(&mut self) -> Result<f64, String> {
        let mut value = self.factor()?;
        loop {
            match () {
                () if self.take('*') => value *= self.factor()?,
                () if self.take('/') => value /= self.factor()?,
                () => return Ok(value),
            }
        }
    }

    fn factor(&mut self) -> Result<f64, String> {
        if self.take('(') {
            let value = self.sum()?;
            self.expect(')')?;
            return Ok(value);
        }
        let text = self.text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && !"_.".contains(c)).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.text = rest;
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return word
                .trim_end_matches('u')
                .parse()
                .map_err(|_| format!("has `{word}`, which is no number"));
        }
        if self.take('(') {
            let value = self.sum()?;
            let value = match word {
                "ceil" => value.ceil(),
                "floor" => value.floor(),
                "min" | "max" => {
                    self.expect(',')?;
                    let other = self.sum()?;
                    if word == "min" { value.min(other) } else { value.max(other) }
                }
                _ => return Err(format!("calls `{word}`; there are ceil, floor, min and max")),
            };
            self.expect(')')?;
            return Ok(value);
        }
        match self.known.iter().find(|(name, _)| name == word) {
            Some((_, value)) => Ok(*value),
            None if word.is_empty() => Err("ends too early".to_owned()),
            None => {
                let names: Vec<&str> = self.known.iter().map(|(name, _)| name.as_str()).collect();
                Err(format!(
                    "names `{word}`, which is no field of Params and no constant; there are: {}",
                    names.join(", ")
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<f64, String> {
        let known = [("w".to_owned(), 65.0), ("TILE_W".to_owned(), 32.0), ("shape.x".to_owned(), 7.0)];
        Parser { text, known: &known }.value()
    }

    #[test]
    fn expressions_bind_as_they_do_on_paper() {
        assert_eq!(value("ceil(w / TILE_W) * 2 + 1"), Ok(7.0));
        assert_eq!(value("2 * (w - 5u) / 4"), Ok(30.0));
        assert_eq!(value("min(shape.x, w) + max(1, 2) - 1"), Ok(8.0));
        assert_eq!(value("10 - 4 - 3"), Ok(3.0));
        for (text, says) in [
            ("w +", "ends too early"),
            ("(w", "lacks a `)`"),
            ("w w", "from `w` on"),
            ("h", "there are: w, TILE_W"),
            ("round(w)", "calls `round`"),
            ("3x", "no number"),
        ] {
            let error = value(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    fn launch(source: &str) -> Result<[u32; 3], String> {
        let module = naga::front::wgsl::parse_str(source).expect("parses");
        let own = Replacement { file: "own.wgsl".to_owned(), source: source.to_owned() };
        let launch =
            Launch::of("add.wgsl", &own, &module).map_err(|e| e.to_string())?.expect("one is stated");
        let params = Params::new().u32("n", 1_000_000).i32("d", 3);
        launch.workgroups("add.wgsl", &params, [5, 6, 7]).map_err(|e| e.to_string())
    }

    #[test]
    fn a_launch_is_one_number_or_three() {
        let rest = "const TILE = 10u;\n";
        assert_eq!(launch(&format!("//! launch: ceil(n / TILE)\n{rest}")), Ok([50_000, 2, 1]));
        assert_eq!(launch(&format!("//! launch: d, min(d, 2), groups.z\n{rest}")), Ok([3, 2, 7]));
        for (header, says) in [
            ("launch: 1, 2", "one number of workgroups, or three"),
            ("launch: d / 2", "own.wgsl:1: launch: `d / 2` gives 1.5"),
            ("launch: n, 1, 1", "exceeds 65535"),
            ("lanch: 1", "the only header line"),
            ("launch: 1\n//! launch: 2", "own.wgsl:2: the launch is stated twice"),
        ] {
            let error = launch(&format!("//! {header}\n{rest}")).expect_err(header);
            assert!(error.contains(says), "{header}: {error}");
        }
    }
}
