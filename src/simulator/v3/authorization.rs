//! The `Authorization` header, read as strictly as it is documented.
use http::{HeaderMap, header};

use super::super::node::Refusal;

const SCHEME: &str = "ALIPAY-SHA256withRSA ";

/// A header that has been read, but not verified.
pub(super) struct Authorization {
    /// What is signed: everything between the scheme and `,sign=`.
    pub(super) auth_string: String,
    pub(super) sign: String,
    items: Vec<(String, String)>,
}

impl Authorization {
    /// Reads the one header there must be.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut all = headers.get_all(header::AUTHORIZATION).iter();
        let text = match (all.next(), all.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        };
        text.and_then(Self::parse).ok_or_else(|| {
            let text = "Authorization请求头缺失或格式错误";
            Refusal::new("40001", "isv.missing-signature", text)
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (auth_string, sign) = text.strip_prefix(SCHEME)?.rsplit_once(",sign=")?;
        let mut items: Vec<(String, String)> = Vec::new();
        for item in auth_string.split(',') {
            let (name, value) = item.split_once('=')?;
            let known = items.iter().any(|(other, _)| other == name);
            if known || name.is_empty() || value.is_empty() || item.contains(' ') {
                return None;
            }
            items.push((name.to_owned(), value.to_owned()));
        }
        Some(Self {
            auth_string: auth_string.to_owned(),
            sign: sign.to_owned(),
            items,
        })
    }

    /// Gives one of the items.
    pub(super) fn item(&self, wanted: &str) -> Option<&str> {
        let mut all = self.items.iter();
        all.find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_form_is_read() {
        let read = |text: &str| Authorization::parse(text);
        let good = read("ALIPAY-SHA256withRSA app_id=1,nonce=n=,timestamp=2,sign=A/B=").unwrap();
        assert_eq!(good.auth_string, "app_id=1,nonce=n=,timestamp=2");
        assert_eq!(
            (good.sign.as_str(), good.item("nonce")),
            ("A/B=", Some("n="))
        );
        for bad in [
            "app_id=1,sign=A",
            "ALIPAY-SHA256withRSA app_id=1",
            "alipay-sha256withrsa app_id=1,sign=A",
            "ALIPAY-SHA256withRSA app_id=1, nonce=2,sign=A",
            "ALIPAY-SHA256withRSA app_id=1,app_id=1,sign=A",
            "ALIPAY-SHA256withRSA app_id=,sign=A",
            "ALIPAY-SHA256withRSA app_id=1,,sign=A",
            "ALIPAY-SM3withSM2 app_id=1,sign=A",
        ] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
