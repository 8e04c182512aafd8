//! What one line of the audit log tells.

use std::borrow::Cow;

use serde::Serialize;

/// The longest value of a text, characters: longer than anything of Alipay's or ours, and a bound
/// for what strangers choose.
const LONGEST: usize = 200;
/// How much room an entry has at first, bytes: what most calls need.
const USUAL: usize = 384;

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
    /// Members of a JSON object, as they will stand in the line: another thread writes that, and what is one
    /// piece costs it nothing to take over and to free.
    members: Vec<u8>,
}

impl Entry {
    /// An entry of `event`; `kind` says which of its sort, `outcome` what became of it.
    #[must_use]
    pub fn new(event: Event, kind: &'static str, outcome: &'static str) -> Self {
        let class = Class {
            event,
            kind,
            outcome,
        };
        Self::of(class)
    }

    fn of(class: Class) -> Self {
        let mut entry = Self {
            class,
            members: Vec::with_capacity(USUAL),
        };
        entry.add("event", class.event.as_str());
        entry.add("kind", class.kind);
        entry.add("outcome", class.outcome);
        entry
    }

    /// In the place of the `count` entries of a class that nobody wrote.
    pub(super) fn folded(class: Class, count: u64) -> Self {
        Self::of(class).with_number("folded", count)
    }

    /// The same with a text.
    #[must_use]
    pub fn with(mut self, name: &'static str, text: &str) -> Self {
        self.add(name, clean(text));
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
        self.add(name, number);
        self
    }

    /// The same marked with `name`, where `is` holds.
    #[must_use]
    pub fn marked(mut self, name: &'static str, is: bool) -> Self {
        if is {
            self.add(name, true);
        }
        self
    }

    /// The same, `name` being said to be nothing.
    pub(super) fn without(mut self, name: &'static str) -> Self {
        self.add(name, ());
        self
    }

    pub(super) fn class(&self) -> Class {
        self.class
    }

    /// What it tells: the members of a JSON object, without its braces.
    pub(super) fn members(&self) -> &[u8] {
        &self.members
    }

    fn add(&mut self, name: &'static str, value: impl Serialize) {
        if !self.members.is_empty() {
            self.members.push(b',');
        }
        self.write(name);
        self.members.push(b':');
        self.write(value);
    }

    fn write(&mut self, value: impl Serialize) {
        // Texts, numbers and flags always serialise, and memory takes them.
        let _ = serde_json::to_writer(&mut self.members, &value);
    }
}

/// The beginning of `text`, fit for a terminal.
fn clean(text: &str) -> Cow<'_, str> {
    let is_plain = text.len() <= LONGEST && text.bytes().all(|b| (b' '..0x7f).contains(&b));
    if is_plain {
        return Cow::Borrowed(text);
    }
    let visible = |c: char| match c.is_control() || is_reordering(c) {
        true => '\u{fffd}',
        false => c,
    };
    let mut cut: String = text.chars().take(LONGEST).map(visible).collect();
    if text.chars().nth(LONGEST).is_some() {
        cut.push('…');
    }
    Cow::Owned(cut)
}

/// Whether a terminal shows what follows in another order.
pub(crate) fn is_reordering(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(entry: &Entry) -> String {
        format!(
            "{{{}}}",
            std::str::from_utf8(entry.members()).expect("text")
        )
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
