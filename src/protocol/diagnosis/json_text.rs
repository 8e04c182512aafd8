//! The ways in which a JSON text is written anew by who parses and prints it.
//!
//! Works on the text, not on a parsed copy: what isn't touched stays, numbers and names above all.

use std::iter::Peekable;
use std::rc::Rc;
use std::str::Chars;

use super::{
    cause::{Cause, ReplyCause},
    json_order::orders,
    search::LARGEST,
    work::Work,
};

/// Gives other writings of a text, the simplest changes first, each with what differs. Nothing
/// for what isn't an object or a list, or is too long to be worth it.
pub(super) fn rewritings(
    text: &str,
    place: Option<&str>,
    work: &Work,
) -> impl Iterator<Item = (Vec<Cause>, String)> + use<> {
    let is_json = text.trim_start().starts_with(['{', '[']) && text.len() <= LARGEST;
    let text: Option<Rc<str>> = is_json.then(|| text.into());
    let (place, work) = (place.map(super::cause::named), work.clone());
    text.into_iter().flat_map(move |text| {
        let respelled = respelled(Rc::clone(&text), place.clone(), work.clone());
        respelled.chain(reordered(text, place.clone(), work.clone()))
    })
}

fn respelled(
    text: Rc<str>,
    place: Option<String>,
    work: Work,
) -> impl Iterator<Item = (Vec<Cause>, String)> {
    let mut styles: Vec<_> = styles().collect();
    styles.sort_by_key(|style| style.changes());
    let styles = work.while_left(styles.into_iter());
    styles.filter_map(move |style| {
        let written = style.write(&text);
        work.charge(WRITING * written.len().max(text.len()));
        (*written != *text).then(|| (style.causes(&place), written))
    })
}

fn reordered(
    text: Rc<str>,
    place: Option<String>,
    work: Work,
) -> impl Iterator<Item = (Vec<Cause>, String)> {
    let order: Cause = ReplyCause::JsonOrder {
        place: place.clone(),
    }
    .into();
    let spacing: Cause = ReplyCause::JsonSpacing { place }.into();
    let (whole, account) = (Rc::clone(&text), work.clone());
    let orders = std::iter::once_with(move || orders(&whole, &account)).flatten();
    let mut is_compact = None;
    orders.flat_map(move |written| {
        let is_compact = *is_compact
            .get_or_insert_with(|| *Style::KEPT.with(Space::Compact).write(&text) == *text);
        let caused = |is_respaced: bool| {
            let spacing = Some(spacing.clone()).filter(|_| is_respaced);
            std::iter::once(order.clone()).chain(spacing).collect()
        };
        work.charge(WRITING * text.len());
        let spaced = Style::KEPT.with(Space::Spaced).write(&written);
        [(caused(!is_compact), written), (caused(is_compact), spaced)]
    })
}

/// How tokens are set apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Kept,
    Compact,
    /// `, ` and `: `, as Python prints.
    Spaced,
    Indented(&'static str),
}

/// How slashes in strings are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slash {
    Kept,
    Escaped,
    Plain,
}

/// How characters in strings are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Characters {
    Kept,
    /// `< > & = '` as escapes, as Gson prints.
    HtmlSafe,
    Lower,
    Plain,
    Upper,
}

#[derive(Clone, Copy)]
struct Style {
    space: Space,
    slash: Slash,
    characters: Characters,
}

fn styles() -> impl Iterator<Item = Style> {
    const SPACES: [Space; 6] = [
        Space::Kept,
        Space::Compact,
        Space::Spaced,
        Space::Indented("  "),
        Space::Indented("    "),
        Space::Indented("\t"),
    ];
    const SLASHES: [Slash; 3] = [Slash::Kept, Slash::Escaped, Slash::Plain];
    const CHARACTERS: [Characters; 5] = [
        Characters::Kept,
        Characters::Plain,
        Characters::Lower,
        Characters::Upper,
        Characters::HtmlSafe,
    ];
    SPACES.into_iter().flat_map(|space| {
        SLASHES.into_iter().flat_map(move |slash| {
            CHARACTERS.into_iter().map(move |characters| Style {
                space,
                slash,
                characters,
            })
        })
    })
}

impl Style {
    const KEPT: Self = Self {
        space: Space::Kept,
        slash: Slash::Kept,
        characters: Characters::Kept,
    };

    fn with(self, space: Space) -> Self {
        Self { space, ..self }
    }

    fn changes(self) -> usize {
        usize::from(self.space != Space::Kept)
            + usize::from(self.slash != Slash::Kept)
            + usize::from(self.characters != Characters::Kept)
    }

    fn causes(self, place: &Option<String>) -> Vec<Cause> {
        let place = || place.clone();
        let mut causes = Vec::new();
        if self.space != Space::Kept {
            causes.push(ReplyCause::JsonSpacing { place: place() }.into());
        }
        if self.slash != Slash::Kept {
            causes.push(ReplyCause::JsonSlashes { place: place() }.into());
        }
        if self.characters != Characters::Kept {
            causes.push(ReplyCause::JsonEscapes { place: place() }.into());
        }
        causes
    }

    fn write(self, text: &str) -> String {
        let mut writer = Writer {
            style: self,
            out: String::with_capacity(text.len()),
            depth: 0,
        };
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if writer.out.len() > LONGEST_WRITTEN {
                break;
            }
            match c {
                '"' => writer.string(&mut chars),
                c if c.is_ascii_whitespace() && self.space != Space::Kept => {}
                c => writer.token(c, &mut chars),
            }
        }
        writer.out
    }
}

struct Writer {
    style: Style,
    out: String,
    depth: usize,
}

impl Writer {
    fn token(&mut self, c: char, rest: &mut Peekable<Chars<'_>>) {
        match (c, self.style.space) {
            ('{' | '[', Space::Indented(_)) => self.begin(c, rest),
            ('}' | ']', Space::Indented(unit)) => {
                self.depth = self.depth.saturating_sub(1);
                self.line(unit);
                self.out.push(c);
            }
            (',', Space::Indented(unit)) => {
                self.out.push(c);
                self.line(unit);
            }
            (',', Space::Spaced) | (':', Space::Spaced | Space::Indented(_)) => {
                self.out.extend([c, ' ']);
            }
            _ => self.out.push(c),
        }
    }

    fn begin(&mut self, open: char, rest: &mut Peekable<Chars<'_>>) {
        self.out.push(open);
        while rest.next_if(char::is_ascii_whitespace).is_some() {}
        match (rest.next_if(|&c| c == '}' || c == ']'), self.style.space) {
            (Some(close), _) => self.out.push(close),
            (None, Space::Indented(unit)) => {
                self.depth += 1;
                self.line(unit);
            }
            (None, _) => {}
        }
    }

    fn line(&mut self, unit: &str) {
        const DEEPEST: usize = 64;
        self.out.push('\n');
        self.out.push_str(&unit.repeat(self.depth.min(DEEPEST)));
    }

    /// Writes a string whose opening quote was read.
    fn string(&mut self, rest: &mut Peekable<Chars<'_>>) {
        self.out.push('"');
        while let Some(c) = rest.next() {
            match c {
                '"' => {
                    self.out.push(c);
                    return;
                }
                '\\' => self.escape(rest),
                '/' if self.style.slash == Slash::Escaped => self.out.push_str("\\/"),
                c => self.character(c),
            }
        }
    }

    /// Writes an escape whose backslash was read.
    fn escape(&mut self, rest: &mut Peekable<Chars<'_>>) {
        match rest.next() {
            Some('/') if self.style.slash == Slash::Plain => self.out.push('/'),
            Some('u') => match escaped_character(rest) {
                Ok(c) if self.style.characters == Characters::Kept => {
                    self.out.push_str(&c.spelled);
                }
                Ok(c) => self.character(c.character),
                Err(spelled) => self.out.push_str(&spelled),
            },
            Some(c) => self.out.extend(['\\', c]),
            None => self.out.push('\\'),
        }
    }

    fn character(&mut self, c: char) {
        let is_special = matches!(c, '<' | '>' | '&' | '=' | '\'');
        let must = c.is_control() || matches!(c, '"' | '\\');
        match self.style.characters {
            Characters::Upper if must || !c.is_ascii() => self.units(c, Digits::Upper),
            Characters::Lower if must || !c.is_ascii() => self.units(c, Digits::Lower),
            Characters::HtmlSafe if must || is_special => self.units(c, Digits::Lower),
            Characters::Plain if must => self.units(c, Digits::Lower),
            _ => self.out.push(c),
        }
    }

    fn units(&mut self, c: char, digits: Digits) {
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            let text = match digits {
                Digits::Lower => format!("\\u{unit:04x}"),
                Digits::Upper => format!("\\u{unit:04X}"),
            };
            self.out.push_str(&text);
        }
    }
}

#[derive(Clone, Copy)]
enum Digits {
    Lower,
    Upper,
}

/// A character and how it was spelled.
struct Escaped {
    character: char,
    spelled: String,
}

/// Reads the digits behind `\u`, and those of a second half; the error is what stands there.
fn escaped_character(rest: &mut Peekable<Chars<'_>>) -> Result<Escaped, String> {
    let mut spelled = "\\u".to_owned();
    let high = digits(rest, &mut spelled);
    let Some(high) = high else {
        return Err(spelled);
    };
    if let Some(character) = char::from_u32(high) {
        return Ok(Escaped { character, spelled });
    }
    for expected in ['\\', 'u'] {
        match rest.next_if_eq(&expected) {
            Some(c) => spelled.push(c),
            None => return Err(spelled),
        }
    }
    let low = digits(rest, &mut spelled);
    let pair = low.filter(|low| (0xdc00..0xe000).contains(low) && high < 0xdc00);
    let joined =
        pair.and_then(|low| char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + low - 0xdc00));
    match joined {
        Some(character) => Ok(Escaped { character, spelled }),
        None => Err(spelled),
    }
}

fn digits(rest: &mut Peekable<Chars<'_>>, spelled: &mut String) -> Option<u32> {
    let mut number = 0;
    for _ in 0..4 {
        let c = rest.next_if(char::is_ascii_hexdigit)?;
        spelled.push(c);
        number = number * 16 + c.to_digit(16)?;
    }
    Some(number)
}

/// Brackets in brackets make an indented text long. One that is longer is given up: it was never
/// signed.
const LONGEST_WRITTEN: usize = 4 * LARGEST;

/// What it costs to write a byte anew.
pub(super) const WRITING: usize = 6;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(arrived: &str, signed: &str, kinds: &[&str]) {
        let work = Work::default();
        let mut found = rewritings(arrived, None, &work);
        let (causes, _) = found
            .find(|(_, written)| written == signed)
            .unwrap_or_else(|| panic!("{signed}"));
        assert_eq!(causes.iter().map(Cause::kind).collect::<Vec<_>>(), kinds);
    }

    #[test]
    fn each_way_of_printing_is_known() {
        let compact = r#"{"a":"x/中","b":[1,{}],"c":"\"\\"}"#;
        check(
            r#"{"a": "x/中", "b": [1, {}], "c": "\"\\"}"#,
            compact,
            &["json-spacing"],
        );
        let pretty =
            "{\n  \"a\": \"x/中\",\n  \"b\": [\n    1,\n    {}\n  ],\n  \"c\": \"\\\"\\\\\"\n}";
        check(pretty, compact, &["json-spacing"]);
        check(compact, pretty, &["json-spacing"]);
        check(
            compact,
            r#"{"a":"x\/中","b":[1,{}],"c":"\"\\"}"#,
            &["json-slashes"],
        );
        check(
            compact,
            r#"{"a":"x/\u4e2d","b":[1,{}],"c":"\"\\"}"#,
            &["json-escapes"],
        );
        let both = r#"{"a": "x\/\u4E2D","b":[1,{}],"c":"\"\\"}"#;
        check(
            both,
            compact,
            &["json-spacing", "json-slashes", "json-escapes"],
        );
        check(
            r#"{"a":"'<"}"#,
            r#"{"a":"\u0027\u003c"}"#,
            &["json-escapes"],
        );
        check(
            r#"{"a":"😀"}"#,
            r#"{"a":"\ud83d\ude00"}"#,
            &["json-escapes"],
        );
        check(
            r#"{"a":"\ud83d\ude00"}"#,
            r#"{"a":"😀"}"#,
            &["json-escapes"],
        );
    }

    #[test]
    fn members_are_put_into_other_orders() {
        let signed = r#"{"code":"10000","msg":"Success","z":1,"a":2,"m":3}"#;
        check(
            r#"{"a":2,"code":"10000","m":3,"msg":"Success","z":1}"#,
            signed,
            &["json-order"],
        );
        assert_eq!(rewritings("no JSON", None, &Work::default()).count(), 0);
    }

    proptest! {
        #[test]
        fn rewriting_never_panics(text in "[\\[{\"\\\\u0-9a-f:,}/ 中\\]]{0,40}") {
            let work = Work::default();
            let _ = rewritings(&text, None, &work).count();
            let _ = rewritings(&format!("{{{text}"), None, &work).count();
        }
    }
}
