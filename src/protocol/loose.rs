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

/// Reads a JSON object. (serde would fill a struct from a list too, by position: a guess.)
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    let is_object = text.trim_start().starts_with('{');
    is_object.then(|| serde_json::from_str(text).ok()).flatten()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn loose(json: &str) -> Loose {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn strings_and_numbers_are_texts_and_the_rest_is_nothing() {
        for (json, expected) in [
            (r#""a""#, Some("a")),
            ("31536000", Some("31536000")),
            (r#""""#, None),
            ("null", None),
            ("true", None),
            ("[1]", None),
            (r#"{"a":1}"#, None),
        ] {
            assert_eq!(loose(json).into_text().as_deref(), expected, "{json}");
            assert_eq!(loose(json).is_none(), expected.is_none(), "{json}");
        }
    }

    #[test]
    fn numbers_are_read_from_either() {
        for json in ["42", r#""42""#, r#"" 42 ""#] {
            assert_eq!(loose(json).number::<i64>(), Some(42), "{json}");
        }
        assert_eq!(loose(r#""many""#).number::<i64>(), None);
    }

    #[test]
    fn what_is_there_comes_before_what_else_there_is() {
        let [one, other, none] = [r#""one""#, r#""other""#, "null"].map(loose);
        assert!(one.clone().or(&other) == one && none.clone().or(&other) == other);
        assert!(none.clone().or(&none).is_none());
    }

    #[test]
    fn a_list_fills_no_struct() {
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        assert_eq!(object::<Named>(r#" {"name":"a"}"#).unwrap().name, "a");
        assert!(object::<Named>(r#"["a"]"#).is_none());
    }
}
