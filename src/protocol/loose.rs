//! JSON values whose type Alipay doesn't keep to.

use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// Holds a string, or a number as its text; anything else, an empty string and null are nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Loose(Option<String>);

impl Loose {
    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn into_text(self) -> Option<String> {
        self.0
    }

    pub(super) fn number<N: std::str::FromStr>(&self) -> Option<N> {
        self.0.as_deref()?.trim().parse().ok()
    }

    pub(super) fn or(self, other: &Self) -> Self {
        Self(self.0.or_else(|| other.0.clone()))
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Text(String),
            Number(serde_json::Number),
            Other(IgnoredAny),
        }
        Ok(Self(match Any::deserialize(deserializer)? {
            Any::Text(text) => Some(text).filter(|text| !text.is_empty()),
            Any::Number(number) => Some(number.to_string()),
            Any::Other(_) => None,
        }))
    }
}
