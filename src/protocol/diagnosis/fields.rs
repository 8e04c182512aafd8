//! The parameters of a form as they stand there, mistakes included.

use std::{collections::BTreeSet, rc::Rc};

use super::{
    cause::{Cause, ParamsCause, TextCause, named},
    work::Work,
};
use crate::protocol::{
    charset::Charset,
    form,
    params::{is_blank, name},
};

/// Holds names and values in their order; a name may stand twice, and what can't be decoded is
/// replaced. Every changed copy is charged, though it shares the texts that are the same: thousands
/// are made of one message.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pairs: Vec<Pair>,
    work: Work,
}

/// A name and a value.
type Pair = (Rc<str>, Rc<str>);

impl Fields {
    /// Reads a form leniently: a `%` without digits stays.
    pub(super) fn read(raw: &[u8], charset: Charset) -> Self {
        let text = |piece: &[u8]| {
            let bytes = form::unescape(piece, 0).unwrap_or_else(|_| leniently(piece));
            lossy(&bytes, charset)
        };
        form::segments(raw)
            .map(|(_, key, value)| (text(key), text(value)))
            .collect()
    }

    /// Splits a form that is decoded already.
    pub(super) fn read_verbatim(raw: &[u8], charset: Charset) -> Self {
        form::segments(raw)
            .map(|(_, key, value)| (lossy(key, charset), lossy(value, charset)))
            .collect()
    }

    /// The same, charged to another account.
    pub(super) fn metered(self, work: &Work) -> Self {
        let work = work.clone();
        Self { work, ..self }
    }

    /// The account that copies are charged to.
    pub(super) fn work(&self) -> &Work {
        &self.work
    }

    /// What a copy costs.
    fn cost(&self) -> usize {
        let pairs = self.pairs.iter();
        pairs
            .map(|(name, value)| name.len() + value.len() + PAIR)
            .sum()
    }

    fn copy(&self, pairs: impl Iterator<Item = Pair>) -> Self {
        self.work.charge(self.cost());
        Self {
            pairs: pairs.collect(),
            work: self.work.clone(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find_map(|(known, value)| (known == name).then_some(value))
    }

    /// Names each parameter once, in order.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut seen = BTreeSet::new();
        let names = self.iter().map(|(name, _)| name);
        names.filter(|name| seen.insert(*name)).collect()
    }

    /// Finds the first name that stands twice.
    pub(super) fn duplicate(&self) -> Option<&str> {
        let mut seen = BTreeSet::new();
        self.iter()
            .map(|(name, _)| name)
            .find(|name| !seen.insert(*name))
    }

    pub(super) fn without(&self, names: &[&str]) -> Self {
        self.keep(|name, _| !names.contains(&name))
    }

    pub(super) fn keep(&self, wanted: impl Fn(&str, &str) -> bool) -> Self {
        let kept = self.pairs.iter();
        let kept = kept.filter(|(name, value)| wanted(name, value));
        self.copy(kept.cloned())
    }

    pub(super) fn with(&self, name: &str, value: &str) -> Self {
        let added = (name.into(), value.into());
        self.copy(self.pairs.iter().cloned().chain([added]))
    }

    /// Changes each value but the signature's; `None` if nothing changes.
    pub(super) fn map(&self, change: impl Fn(&str) -> String) -> Option<Self> {
        let mut is_other = false;
        let changed = self.copy(self.pairs.iter().map(|(name, value)| {
            let changed = (**name != *name::SIGN).then(|| change(value));
            let changed = changed.filter(|changed| **changed != **value);
            is_other |= changed.is_some();
            let value = changed.map_or_else(|| Rc::clone(value), Rc::from);
            (Rc::clone(name), value)
        }));
        is_other.then_some(changed)
    }

    /// Changes the value of one parameter.
    pub(super) fn replace(&self, target: &str, value: &str) -> Self {
        self.work.charge(value.len());
        let value: Rc<str> = value.into();
        self.copy(self.pairs.iter().map(|(name, old)| {
            let value = if **name == *target { &value } else { old };
            (Rc::clone(name), Rc::clone(value))
        }))
    }

    /// Keeps one of those that stand twice: the first.
    pub(super) fn first_of_duplicates(&self) -> Self {
        let mut seen = BTreeSet::new();
        let kept = self.pairs.iter();
        let kept = kept.filter(|(name, _)| seen.insert(&**name));
        self.copy(kept.cloned())
    }

    /// Keeps one of those that stand twice: the last.
    pub(super) fn last_of_duplicates(&self) -> Self {
        let mut seen = BTreeSet::new();
        let kept = self.pairs.iter().rev();
        let kept = kept.filter(|(name, _)| seen.insert(&**name));
        let mut kept = self.copy(kept.cloned());
        kept.pairs.reverse();
        kept
    }

    /// Says what a strict reader finds wrong with a form.
    pub(super) fn faults(raw: &[u8], charset: Charset) -> Vec<Cause> {
        let pieces = form::segments(raw)
            .flat_map(|(at, key, value)| [(at, key), (at + key.len() + 1, value)]);
        let faults = pieces.filter_map(|(at, piece)| fault(piece, at, charset, raw.len()));
        let mut faults: Vec<Cause> = faults.take(MOST_FAULTS).collect();
        if form::segments(raw).count() > MOST_FIELDS {
            let reason =
                format!("more than {MOST_FIELDS} parameters, of which the rest wasn't looked at");
            faults.push(TextCause::NotTheMessage { reason }.into());
        }
        let fields = Self::read(raw, charset);
        faults.extend(fields.duplicate().map(|name| {
            let name = named(name);
            ParamsCause::Duplicate { name }.into()
        }));
        faults.truncate(MOST_FAULTS);
        faults
    }
}

fn fault(piece: &[u8], at: usize, charset: Charset, end: usize) -> Option<Cause> {
    use crate::protocol::error::ProtocolError;
    match form::unescape(piece, at) {
        Err(ProtocolError::PercentInvalid { at }) if at + 3 > end => {
            Some(TextCause::Truncated.into())
        }
        Err(ProtocolError::PercentInvalid { at }) => Some(TextCause::PercentInvalid { at }.into()),
        Err(_) => None,
        Ok(bytes) => match charset.decode(&bytes) {
            Err(ProtocolError::CharsetMalformed { .. }) => Some(
                TextCause::CharsetMalformed {
                    declared: charset.label(),
                    at,
                }
                .into(),
            ),
            _ => None,
        },
    }
}

/// Takes the form encoding off where there is one.
fn leniently(piece: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.len());
    let mut rest = piece;
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = rest.get(..3).filter(|_| byte == b'%');
        match escaped.and_then(|escaped| form::unescape(escaped, 0).ok()) {
            Some(decoded) => {
                out.extend(decoded);
                rest = rest.get(3..).unwrap_or_default();
            }
            None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                rest = behind;
            }
        }
    }
    out
}

/// Decodes what is valid, and replaces the rest.
fn lossy(bytes: &[u8], charset: Charset) -> String {
    let replaced = || match charset {
        Charset::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
        Charset::Gbk => bytes
            .iter()
            .map(|&byte| {
                if byte.is_ascii() {
                    char::from(byte)
                } else {
                    '\u{fffd}'
                }
            })
            .collect(),
    };
    charset.decode(bytes).unwrap_or_else(|_| replaced())
}

impl FromIterator<(String, String)> for Fields {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter().take(MOST_FIELDS);
        Self {
            pairs: pairs
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            work: Work::default(),
        }
    }
}

/// Says how a sign content is made of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) with_sign_type: bool,
    pub(super) with_empty: bool,
    pub(super) with_certificate: bool,
    pub(super) order: Order,
}

/// Says in which order parameters were signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Arrival,
    Bytes,
    Letters,
}

impl Reading {
    /// The rule for requests.
    pub(super) const REQUEST: Self = Self {
        with_sign_type: true,
        with_empty: false,
        with_certificate: true,
        order: Order::Bytes,
    };

    /// The rule for notifications.
    pub(super) const NOTIFICATION: Self = Self {
        with_sign_type: false,
        ..Self::REQUEST
    };

    /// Writes the sign content.
    pub(super) fn content(self, fields: &Fields) -> String {
        let mut pairs: Vec<_> = fields.iter().filter(|pair| self.takes(*pair)).collect();
        match self.order {
            Order::Arrival => {}
            Order::Bytes => pairs.sort_by_key(|&(name, _)| name),
            Order::Letters => pairs.sort_by_cached_key(|(name, _)| name.to_ascii_lowercase()),
        }
        fields.work.charge(2 * fields.cost());
        let length = |(name, value): &(&str, &str)| name.len() + value.len() + 2;
        let mut content = String::with_capacity(pairs.iter().map(length).sum());
        for (name, value) in pairs {
            if !content.is_empty() {
                content.push('&');
            }
            content.extend([name, "=", value]);
        }
        content
    }

    fn takes(self, (name, value): (&str, &str)) -> bool {
        let left_out = name == name::SIGN
            || (name == name::SIGN_TYPE && !self.with_sign_type)
            || (name == name::ALIPAY_CERT_SN && !self.with_certificate);
        !left_out && (self.with_empty || !is_blank(value))
    }
}

/// What a pair costs besides its bytes.
const PAIR: usize = 32;

/// The first ones tell enough.
const MOST_FAULTS: usize = 3;

/// More than that is an attack, and its diagnosis isn't worth the time.
const MOST_FIELDS: usize = 256;
