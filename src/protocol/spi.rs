//! SPI calls: Alipay asks the app something, and waits for the answer.
//!
//! Protocol: SPI接入指南. What is answered is [`SpiAnswer`](super::signed_answer::SpiAnswer).

use super::{
    charset::{self, Charset},
    error::ProtocolError,
    key::RsaPublicKey,
    notification::{self, UnverifiedNotification},
    params::{Params, is_blank, name},
    sign_content::Scheme,
    signature::SignType,
};

/// Holds a call that nobody has verified yet.
///
/// It shows nothing but what choosing a key needs. `Debug` shows names alone.
#[derive(Clone, Debug)]
pub struct UnverifiedSpiCall {
    params: Params,
    charset: Charset,
    sent_at: i64,
}

impl UnverifiedSpiCall {
    /// Reads a call, whose parameters stand in the query, in the form body, or in both: all of
    /// them are signed. One that stands in both places with one value counts once (as the gateway
    /// itself counts what SDKs send twice); with two values nobody knows which one was meant.
    ///
    /// The charset is that of the `charset` parameter, in the query or else in the body, then that
    /// of the `Content-Type`, then UTF-8.
    ///
    /// # Errors
    ///
    /// Those of [`notification::charset`] and of [`Params::from_form`];
    /// [`ProtocolError::SpiCallInvalid`] for what Alipay signs by the same rules but isn't a call:
    /// the query of a `return_url`, which every customer sees, has no `utc_timestamp`; a
    /// notification has a `notify_id` or names its kind otherwise.
    pub fn parse(
        query: &[u8],
        content_type: Option<&str>,
        body: &[u8],
    ) -> Result<Self, ProtocolError> {
        let charset = match charset::label_of_form(query) {
            Some(label) => Charset::from_label(&label)?,
            None => notification::charset(content_type, body)?,
        };
        let params = Params::from_form(query, charset)?.union(Params::from_form(body, charset)?)?;
        Ok(Self {
            sent_at: sent_at(&params)?,
            params,
            charset,
        })
    }

    /// Names the app that the call says it is for: `invoke_app_id`, else `app_id`. Nobody has
    /// vouched for it yet.
    #[must_use]
    pub fn claimed_app_id(&self) -> Option<&str> {
        let named = |name| text(&self.params, name);
        named(name::INVOKE_APP_ID).or_else(|| named(name::APP_ID))
    }

    /// Names the platform certificate that signed the call, where it says so. Nobody has vouched
    /// for it yet.
    #[must_use]
    pub fn alipay_cert_sn(&self) -> Option<&str> {
        text(&self.params, name::ALIPAY_CERT_SN)
    }

    /// Checks the signature with each key in turn, as
    /// [`UnverifiedNotification::verify`] does.
    ///
    /// # Errors
    ///
    /// Those of [`UnverifiedNotification::verify`].
    pub fn verify(self, keys: &[RsaPublicKey], app: SignType) -> Result<SpiCall, ProtocolError> {
        let signed = UnverifiedNotification::of(self.params.clone(), self.charset);
        let scheme = signed.verify(keys, app)?.scheme();
        Ok(SpiCall { call: self, scheme })
    }
}

/// Holds a call whose signature holds. `Debug` shows names alone.
#[derive(Clone, Debug)]
pub struct SpiCall {
    call: UnverifiedSpiCall,
    scheme: Scheme,
}

impl SpiCall {
    /// Gives all parameters, decoded once.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.call.params
    }

    /// Gives the charset that the call came in, and that its answer is to be in.
    #[must_use]
    pub fn charset(&self) -> Charset {
        self.call.charset
    }

    /// Names what is asked, such as `spi.alipay.merchant.order.query`.
    #[must_use]
    pub fn method(&self) -> &str {
        text(&self.call.params, name::METHOD).unwrap_or_default()
    }

    /// Names the merchant's app: `biz_app_id`, else `merchant_app_id`.
    #[must_use]
    pub fn merchant(&self) -> Option<&str> {
        let named = |name| text(&self.call.params, name);
        named(name::BIZ_APP_ID).or_else(|| named(name::MERCHANT_APP_ID))
    }

    /// Tells which scheme the signature was made by.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Tells when Alipay sent the call, in Unix milliseconds.
    #[must_use]
    pub fn sent_at(&self) -> i64 {
        self.call.sent_at
    }
}

fn text<'a>(params: &'a Params, name: &str) -> Option<&'a str> {
    params.get(name).filter(|value| !is_blank(value))
}

/// Checks what makes a call, and reads its time.
fn sent_at(params: &Params) -> Result<i64, ProtocolError> {
    let invalid = |reason| ProtocolError::SpiCallInvalid { reason };
    if text(params, name::METHOD).is_none() {
        return Err(invalid("it has no `method`"));
    }
    let of_others = [name::NOTIFY_ID, name::NOTIFY_TYPE, name::MSG_METHOD];
    if of_others.iter().any(|name| text(params, name).is_some()) {
        return Err(invalid("it is a notification"));
    }
    let written = text(params, name::UTC_TIMESTAMP);
    let written = written.ok_or_else(|| invalid("it has no `utc_timestamp`"))?;
    timestamp(written).ok_or_else(|| invalid("its `utc_timestamp` isn't a number of seconds"))
}

/// Reads `utc_timestamp`: seconds, as documented for SPI, or milliseconds, which the parameter of
/// that name has in platform messages.
fn timestamp(text: &str) -> Option<i64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number: i64 = text.parse().ok().filter(|_| is_number)?;
    match text.len() {
        10 => number.checked_mul(1000),
        13 => Some(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{
        key::AppPrivateKey,
        sign_content::{self, EmptyValues},
    };

    const PLAIN: &str = "method=spi.x&utc_timestamp=1700000000";

    fn parse(query: &str, body: &str) -> Result<UnverifiedSpiCall, ProtocolError> {
        UnverifiedSpiCall::parse(query.as_bytes(), None, body.as_bytes())
    }

    fn refused(query: &str, body: &str, kind: &str) {
        let error = parse(query, body).unwrap_err();
        assert_eq!(error.kind(), kind, "{query} | {body}");
    }

    #[test]
    fn query_and_body_are_one_set() {
        let call = parse(PLAIN, "a=1&method=spi.x").unwrap();
        let names: Vec<_> = call.params.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["method", "utc_timestamp", "a"]);
        refused(PLAIN, "method=spi.y", "parameter-duplicate");
        refused(PLAIN, "a=1&a=1", "parameter-duplicate");
        refused("method=spi.x&method=spi.x", "", "parameter-duplicate");
    }

    #[test]
    fn the_charset_is_that_of_the_parameter_wherever_it_stands() {
        let form = "a=%D6%D0";
        let query = format!("{PLAIN}&charset=GBK");
        for (query, body) in [(query.as_str(), form), (form, query.as_str())] {
            let call = parse(query, body).unwrap();
            assert_eq!(call.charset, Charset::Gbk);
            assert_eq!(call.params.get("a"), Some("中"));
        }
        refused(PLAIN, form, "charset-malformed");
        refused(
            &format!("{PLAIN}&charset=latin1"),
            "",
            "charset-unsupported",
        );
    }

    #[test]
    fn what_alipay_signs_otherwise_is_no_call() {
        for params in [
            "",
            "utc_timestamp=1700000000",
            "method=alipay.trade.page.pay.return&timestamp=2026-11-22 10:20:30",
            "method=spi.x&utc_timestamp=1700000000&notify_id=1",
            "method=spi.x&utc_timestamp=1700000000&msg_method=a",
            "method=spi.x&utc_timestamp=170000000x",
            "method=spi.x&utc_timestamp=+170000000",
            "method=spi.x&utc_timestamp=1",
        ] {
            refused(params, "", "spi-call-invalid");
        }
    }

    #[test]
    fn times_are_seconds_or_milliseconds() {
        assert_eq!(timestamp("1700000000"), Some(1_700_000_000_000));
        assert_eq!(timestamp("1700000000123"), Some(1_700_000_000_123));
    }

    #[test]
    fn the_app_is_the_invoked_one() {
        let claimed = |more: &str| {
            let call = parse(PLAIN, more).unwrap();
            call.claimed_app_id().map(str::to_owned)
        };
        assert_eq!(claimed("app_id=1&invoke_app_id=2").as_deref(), Some("2"));
        assert_eq!(claimed("app_id=1&invoke_app_id=").as_deref(), Some("1"));
        assert_eq!(claimed("biz_app_id=1"), None);
    }

    #[test]
    fn what_is_signed_is_taken_with_its_fields() {
        let query = "method=spi.alipay.x&utc_timestamp=1700000000&charset=GBK&app_id=1\
                     &alipay_cert_sn=5a7c&biz_app_id=&merchant_app_id=2&a=%D6%D0";
        let unsigned = parse(query, "").unwrap();
        assert_eq!(unsigned.alipay_cert_sn(), Some("5a7c"));
        assert_eq!(parse(PLAIN, "").unwrap().alipay_cert_sn(), None);
        let alipay = AppPrivateKey::of_vectors("alipay2048");
        let content =
            sign_content::notification(&unsigned.params, Scheme::V1, EmptyValues::Dropped);
        let content = Charset::Gbk.encode(&content).unwrap();
        let mut signed = unsigned.clone();
        signed
            .params
            .set("sign", alipay.sign(SignType::Rsa2, &content).unwrap());
        let keys = [alipay.public_key().clone()];
        let call = signed.clone().verify(&keys, SignType::Rsa2).unwrap();
        assert_eq!(call.params().get("a"), Some("中"));
        assert_eq!(call.charset(), Charset::Gbk);
        assert_eq!(call.method(), "spi.alipay.x");
        assert_eq!(call.merchant(), Some("2"));
        assert_eq!(call.sent_at(), 1_700_000_000_000);
        assert_eq!(call.scheme(), Scheme::V1);
        assert!(unsigned.verify(&keys, SignType::Rsa2).is_err());
        let other = [AppPrivateKey::of_vectors("app2048").public_key().clone()];
        assert!(signed.verify(&other, SignType::Rsa2).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(
            query in proptest::collection::vec(any::<u8>(), 0..80),
            body in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = UnverifiedSpiCall::parse(&query, Some("x;charset=GBK"), &body);
        }
    }
}
