//! What one line of the audit log tells.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// The longest value of a text, characters: longer than anything of Alipay's or ours, and a bound
/// for what strangers choose.
const LONGEST: usize = 200;

/// What happened, as far as an auditor asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// An operator's request.
    Admin,
    /// The log itself: started, rotated, lines lost.
    Audit,
    /// A browser that came back from Alipay.
    Authorization,
    /// A backend's request to the proxy.
    Call,
    /// A notification of Alipay's.
    Notification,
    /// A call of Alipay's that waits for an answer.
    Spi,
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Audit => "audit",
            Self::Authorization => "authorization",
            Self::Call => "call",
            Self::Notification => "notification",
            Self::Spi => "spi",
        }
    }
}

/// What entries of one kind have in common; folded lines have nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Class {
    event: Event,
    kind: &'static str,
    outcome: &'static str,
}

/// One thing that happened. Texts are cut to a bound and have no control characters, whoever chose
/// them; who makes an entry sees to it that none is a secret.
#[derive(Debug, Clone)]
pub struct Entry {
    class: Class,
    details: Vec<(&'static str, Value)>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum Value {
    Flag(bool),
    Nothing(()),
    Number(u64),
    Text(Box<str>),
}

impl Entry {
    /// An entry of `event`; `kind` says which of its sort, `outcome` what became of it.
    #[must_use]
    pub fn new(event: Event, kind: &'static str, outcome: &'static str) -> Self {
        Self {
            class: Class {
                event,
                kind,
                outcome,
            },
            details: Vec::with_capacity(8),
        }
    }

    /// In the place of the `count` entries of a class that nobody wrote.
    pub(super) fn folded(class: Class, count: u64) -> Self {
        Self {
            class,
            details: vec![("folded", Value::Number(count))],
        }
    }

    /// The same with a text.
    #[must_use]
    pub fn with(mut self, name: &'static str, text: &str) -> Self {
        self.details.push((name, Value::Text(clean(text))));
        self
    }

    /// The same with a text, where there is one.
    #[must_use]
    pub fn with_some(self, name: &'static str, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.with(name, text),
            None => self,
        }
    }

    /// The same with a number.
    #[must_use]
    pub fn with_number(mut self, name: &'static str, number: u64) -> Self {
        self.details.push((name, Value::Number(number)));
        self
    }

    /// The same marked with `name`, where `is` holds.
    #[must_use]
    pub fn marked(mut self, name: &'static str, is: bool) -> Self {
        if is {
            self.details.push((name, Value::Flag(true)));
        }
        self
    }

    /// The same, `name` being said to be nothing.
    pub(super) fn without(mut self, name: &'static str) -> Self {
        self.details.push((name, Value::Nothing(())));
        self
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("event", self.class.event.as_str())?;
        map.serialize_entry("kind", self.class.kind)?;
        map.serialize_entry("outcome", self.class.outcome)?;
        for (name, value) in &self.details {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The beginning of `text`, fit for a terminal.
fn clean(text: &str) -> Box<str> {
    let is_plain = text.len() <= LONGEST && text.bytes().all(|b| (b' '..0x7f).contains(&b));
    if is_plain {
        return text.into();
    }
    let visible = |c: char| match c.is_control() || is_reordering(c) {
        true => '\u{fffd}',
        false => c,
    };
    let mut cut: String = text.chars().take(LONGEST).map(visible).collect();
    if text.chars().nth(LONGEST).is_some() {
        cut.push('…');
    }
    cut.into()
}

/// Whether a terminal shows what follows in another order.
fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(entry: &Entry) -> String {
        serde_json::to_string(entry).expect("an object")
    }

    #[test]
    fn only_what_is_known_is_written() {
        let entry = Entry::new(Event::Call, "v2", "ok")
            .with("method", "alipay.trade.query")
            .with_some("caller", None)
            .marked("may_have_acted", false)
            .with_number("claimed", 3);
        assert_eq!(
            text(&entry),
            r#"{"event":"call","kind":"v2","outcome":"ok","method":"alipay.trade.query","claimed":3}"#
        );
    }

    #[test]
    fn what_strangers_choose_is_cut_and_can_not_move_the_cursor() {
        let hostile = format!("\u{1b}[2J\r\n\u{202e}{}", "中".repeat(1000));
        let entry = Entry::new(Event::Notification, "other", "forged").with("type", &hostile);
        let text = text(&entry);
        assert!(text.chars().count() < LONGEST + 100, "{text}");
        assert!(
            !text.contains("\\u001b") && !text.contains('\u{202e}'),
            "{text}"
        );
        assert!(!text.contains("\\r") && text.contains("…\""), "{text}");
    }
}
