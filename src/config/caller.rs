//! `[[caller]]`: who may call the proxy, for which merchants and methods.

use serde_json::{Value, json};

use crate::config::app::public_key_text;
use crate::config::document::Item;
use crate::config::error::Mismatch;
use crate::config::listen::Listen;
use crate::config::proxy::selector;
use crate::config::section::{Reading, Section};
use crate::config::{value, view};
use crate::protocol::secret::Secret;

/// One `[[caller]]`.
#[derive(Debug, Clone)]
pub struct CallerConfig {
    /// The name in logs.
    pub name: String,
    /// How it proves who it is.
    pub identity: CallerIdentity,
    /// Selectors, or `*`.
    pub merchants: Vec<String>,
    /// Globs over methods and v3 paths.
    pub methods: Vec<String>,
    /// Whether what it may not do is refused or only logged.
    pub mode: CallerMode,
    /// Whether it may claim events.
    pub events: bool,
}

impl CallerConfig {
    pub(crate) fn read_all(reading: &Reading, item: Option<Item>, proxy: &Listen) -> Vec<Self> {
        let mut callers: Vec<Self> = Vec::new();
        for section in Section::of_list(reading, ("caller", "caller"), item) {
            let caller = Self::read(&section, proxy);
            section.finish();
            let Some(caller) = caller else { continue };
            if callers.iter().any(|other| other.name == caller.name) {
                let mismatch = Mismatch::of_text(&caller.name, "a name no other caller has");
                section.fault("name", mismatch);
            }
            callers.push(caller);
        }
        callers
    }

    fn read(section: &Section<'_>, proxy: &Listen) -> Option<Self> {
        let name = section.optional("name", |text| Ok(text.to_owned()));
        section.require("name", "a name for the log");
        let identity = CallerIdentity::read(section, proxy);
        let merchants = section.list("merchants", merchant);
        let methods = section.list("methods", value::glob);
        let mode = section.word("mode", &MODES);
        let events = section.flag("events");
        let anything = || vec!["*".to_owned()];
        Some(Self {
            name: name?,
            identity: identity?,
            merchants: merchants.unwrap_or_else(anything),
            methods: methods.unwrap_or_else(anything),
            mode: mode.unwrap_or(CallerMode::Enforce),
            events: events.unwrap_or_default(),
        })
    }

    pub(crate) fn view(&self) -> Value {
        let (kind, identity) = match &self.identity {
            CallerIdentity::PublicKey(text) => ("public_key", json!(view::digest(text))),
            CallerIdentity::Token(token) => ("token", view::secret(Some(token))),
            CallerIdentity::Uid(uid) => ("uid", json!(uid)),
        };
        json!({
            "name": self.name,
            kind: identity,
            "merchants": self.merchants,
            "methods": self.methods,
            "mode": view::word(&MODES, self.mode),
            "events": self.events,
        })
    }
}

fn merchant(text: &str) -> Result<String, Mismatch> {
    match text {
        "*" => Ok(text.to_owned()),
        text => selector(text).map(|_| text.to_owned()),
    }
}

const MODES: [(&str, CallerMode); 2] = [
    ("enforce", CallerMode::Enforce),
    ("report", CallerMode::Report),
];

/// How a caller proves who it is.
#[derive(Debug, Clone)]
pub enum CallerIdentity {
    /// The signature an SDK makes with its throw-away key; the public half, as text.
    PublicKey(String),
    /// `Authorization: Bearer`.
    Token(Secret<String>),
    /// The peer's uid on a unix socket.
    Uid(u32),
}

impl CallerIdentity {
    /// The one identity that is set; `None`: a fault was recorded.
    fn read(section: &Section<'_>, proxy: &Listen) -> Option<Self> {
        const EXPECTED: &str = "one of `token`, `uid` and `public_key`";
        let is_set = |key| {
            section
                .item(key)
                .is_some_and(|item| item.text() != Some(""))
        };
        let (token, uid) = (is_set("token"), is_set("uid"));
        match (token, uid, is_set("public_key")) {
            (true, false, false) => section.secret("token").map(Self::Token),
            (false, true, false) => {
                let uid = section.integer("uid", 0..=i64::from(u32::MAX))?;
                if matches!(proxy, Listen::Tcp(_)) {
                    let mismatch = Mismatch::new("a uid", "a `token` or `public_key`");
                    section.fault(
                        "uid",
                        mismatch.hint("only a unix socket tells the peer's uid"),
                    );
                }
                u32::try_from(uid).ok().map(Self::Uid)
            }
            (false, false, true) => public_key_text(section, "public_key").map(Self::PublicKey),
            (false, false, false) => {
                section.fault("token", Mismatch::new("no identity", EXPECTED));
                None
            }
            _ => {
                section.fault("token", Mismatch::new("several identities", EXPECTED));
                None
            }
        }
    }
}

/// Whether what a caller may not do is refused or only logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerMode {
    /// Refused.
    Enforce,
    /// Logged.
    Report,
}
