//! The `Authorization` header of v3: `ALIPAY-SHA256withRSA app_id=…,nonce=…,timestamp=…,sign=…`.
//!
//! Protocol: 开放平台 V3 协议, “签名规则”. The part before `,sign=` is signed as it is written, so
//! it is kept as one text; the order in it is free.

use std::fmt;

use thiserror::Error;

use super::error::shorten;

/// Holds the signed part of the header (`auth_string`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthString(String);

impl AuthString {
    /// Writes it for a call: `nonce` must be unique (a UUID, or 16 random characters and more),
    /// `unix_ms` is milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// [`AuthorizationError::Value`] or [`AuthorizationError::NonceShort`].
    pub fn new(
        app_id: &str,
        app_cert_sn: Option<&str>,
        nonce: &str,
        unix_ms: i64,
    ) -> Result<Self, AuthorizationError> {
        if nonce.len() < SHORTEST_NONCE {
            return Err(AuthorizationError::NonceShort);
        }
        let empty = Self(String::new());
        let named = match app_cert_sn {
            Some(sn) => empty.with("app_id", app_id)?.with("app_cert_sn", sn)?,
            None => empty.with("app_id", app_id)?,
        };
        named
            .with("nonce", nonce)?
            .with("timestamp", &unix_ms.to_string())
    }

    /// Adds one more item, such as `expired_seconds`.
    ///
    /// # Errors
    ///
    /// [`AuthorizationError::Value`] for a name or value that could be mistaken for something else,
    /// and [`AuthorizationError::Duplicate`].
    pub fn with(mut self, name: &str, value: &str) -> Result<Self, AuthorizationError> {
        if !is_name(name) || !is_value(value) || name == SIGN {
            return Err(AuthorizationError::Value {
                name: shorten(name),
            });
        }
        if self.get(name).is_some() {
            return Err(AuthorizationError::Duplicate {
                name: shorten(name),
            });
        }
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.extend([name, "=", value]);
        Ok(self)
    }

    /// Gives the text that is the first line of the sign content.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Gives the value of an item.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        items(&self.0).find_map(|(known, value)| (known == name).then_some(value))
    }

    /// Writes the header with a signature in base64.
    #[must_use]
    pub fn header(&self, sign: &str) -> String {
        format!("{SCHEME} {self},sign={sign}")
    }
}

impl fmt::Display for AuthString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Holds a header that was read: what is signed, and the signature. It isn't verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// The signed part, as it was written.
    pub auth_string: AuthString,
    /// The signature in base64.
    pub sign: String,
}

impl Authorization {
    /// Reads a header.
    ///
    /// # Errors
    ///
    /// Each [`AuthorizationError`] but `NonceShort`.
    pub fn parse(header: &str) -> Result<Self, AuthorizationError> {
        let (scheme, rest) = header.split_once(' ').ok_or(AuthorizationError::Scheme)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(AuthorizationError::Scheme);
        }
        let (signed, sign) = rest
            .rsplit_once(",sign=")
            .ok_or(AuthorizationError::SignMissing)?;
        if sign.is_empty() || !sign.bytes().all(is_base64) {
            return Err(AuthorizationError::SignMissing);
        }
        let read = signed
            .split(',')
            .try_fold(AuthString(String::new()), |read, item| {
                let (name, value) = item.split_once('=').unwrap_or((item, ""));
                read.with(name, value)
            })?;
        for name in ["app_id", "nonce", "timestamp"] {
            if read.get(name).is_none() {
                return Err(AuthorizationError::Missing { name });
            }
        }
        Ok(Self {
            auth_string: read,
            sign: sign.to_owned(),
        })
    }
}

/// Says what is wrong with a v3 `Authorization` header, read or to be written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthorizationError {
    /// Another scheme.
    #[error("the authorization isn't of the scheme `{SCHEME}`")]
    Scheme,
    /// There is no signature at the end.
    #[error("the authorization doesn't end in `sign=` and base64")]
    SignMissing,
    /// An item is missing.
    #[error("the authorization has no `{name}`")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// An item stands twice.
    #[error("the authorization has `{name}` twice")]
    Duplicate {
        /// Which, shortened.
        name: String,
    },
    /// An item that can't be written there.
    #[error("`{name}` of the authorization is empty, or holds a comma, white space or the like")]
    Value {
        /// Which, shortened.
        name: String,
    },
    /// A nonce that may repeat.
    #[error("the nonce is shorter than {SHORTEST_NONCE} characters")]
    NonceShort,
}

impl AuthorizationError {
    /// Names the kind of fault in a fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        "authorization-header-invalid"
    }
}

fn items(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').filter_map(|item| item.split_once('='))
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !name.is_empty() && name.bytes().all(is_plain)
}

fn is_value(value: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
    !value.is_empty() && value.bytes().all(is_plain)
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

const SCHEME: &str = "ALIPAY-SHA256withRSA";
const SIGN: &str = "sign";
/// What Alipay's documents ask for.
const SHORTEST_NONCE: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "0123456789abcdef";

    #[test]
    fn the_header_is_written_and_read() {
        let written = AuthString::new("1", Some("ab"), NONCE, 5).unwrap();
        let written = written.with("expired_seconds", "120").unwrap();
        assert_eq!(
            written.as_str(),
            "app_id=1,app_cert_sn=ab,nonce=0123456789abcdef,timestamp=5,expired_seconds=120"
        );
        let read = Authorization::parse(&written.header("a+/=")).unwrap();
        assert_eq!(read.auth_string, written);
        assert_eq!(read.sign, "a+/=");
        assert_eq!(read.auth_string.get("timestamp"), Some("5"));
    }

    #[test]
    fn values_that_would_become_other_items_are_refused() {
        for value in ["", "a,b=c", "a b", "a\r\nb", "a\0", "中"] {
            assert!(AuthString::new(value, None, NONCE, 5).is_err(), "{value:?}");
            assert!(AuthString::new("1", Some(value), NONCE, 5).is_err());
        }
        let short = AuthString::new("1", None, "short", 5).unwrap_err();
        assert_eq!(short.kind(), "authorization-header-invalid");
        let written = AuthString::new("1", None, NONCE, 5).unwrap();
        for name in ["nonce", "sign", "", "a=b", "a b"] {
            assert!(written.clone().with(name, "x").is_err(), "{name}");
        }
    }

    #[test]
    fn other_headers_are_refused() {
        for header in [
            "",
            "Bearer x",
            "ALIPAY-SHA256withRSA",
            "ALIPAY-SHA256withRSA sign=a",
            "ALIPAY-SHA256withRSA app_id=1,nonce=2,timestamp=3",
            "ALIPAY-SHA256withRSA app_id=1,nonce=2,timestamp=3,sign=",
            "ALIPAY-SHA256withRSA app_id=1,nonce=2,timestamp=3,sign=a b",
            "ALIPAY-SHA256withRSA app_id=1,nonce=2,sign=a",
            "ALIPAY-SHA256withRSA app_id=1,app_id=1,nonce=2,timestamp=3,sign=a",
            "ALIPAY-SHA256withRSA app_id=1,nonce=2,timestamp=3,sign=a,sign=b",
            "ALIPAY-SHA256withRSA app_id=1,nonce=2,timestamp=3,,sign=b",
            "ALIPAY-SHA256withRSA app_id=1,nonce=2,timestamp=3\r\nX: y,sign=b",
            "ALIPAY-SHA256withRSA  app_id=1,nonce=2,timestamp=3,sign=b",
        ] {
            assert!(Authorization::parse(header).is_err(), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(app_id in "[!-+\\--~]{1,20}", nonce in "[!-+\\--~]{16,40}", at: i64) {
            let written = AuthString::new(&app_id, None, &nonce, at).unwrap();
            let read = Authorization::parse(&written.header("c2lnbg==")).unwrap();
            prop_assert_eq!(read.auth_string.get("nonce"), Some(nonce.as_str()));
            prop_assert_eq!(read.auth_string, written);
        }

        #[test]
        fn reading_never_panics(text in ".{0,80}") {
            let _ = Authorization::parse(&text);
            let _ = Authorization::parse(&format!("{SCHEME} {text},sign=a"));
        }
    }
}
