//! The parameter names of the protocol, spelled as on the wire.

use std::{borrow::Cow, fmt};

/// A parameter's name; those of the protocol are there already, and aren't copied.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Cow<'static, str>);

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(known(text).map_or_else(|| text.to_owned().into(), Cow::Borrowed))
    }
}

impl From<Cow<'_, str>> for Name {
    fn from(text: Cow<'_, str>) -> Self {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

impl From<&String> for Name {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Name {
    fn from(text: String) -> Self {
        Self(known(&text).map_or(Cow::Owned(text), Cow::Borrowed))
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! names {
    ($($constant:ident = $text:literal, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $constant: &str = $text;)*

        /// The same name, where it is one of these.
        pub(super) fn known(text: &str) -> Option<&'static str> {
            match text {
                $($text => Some($constant),)*
                _ => None,
            }
        }
    };
}
names! {
    ALIPAY_CERT_SN = "alipay_cert_sn", "Serial number of Alipay's certificate, in replies and notifications.";
    ALIPAY_ROOT_CERT_SN = "alipay_root_cert_sn", "Serial numbers of Alipay's root certificates.";
    ALIPAY_SDK = "alipay_sdk", "Name of the calling SDK.";
    APP_AUTH_CODE = "app_auth_code", "One-time code of an authorisation.";
    APP_AUTH_TOKEN = "app_auth_token", "A merchant's authorisation of our app.";
    APP_CERT_SN = "app_cert_sn", "Serial number of the app's certificate.";
    APP_ID = "app_id", "The calling or the receiving app.";
    AUTH_APP_ID = "auth_app_id", "The merchant's app that authorised us.";
    AUTH_TOKEN = "auth_token", "A user's access token.";
    BIZ_APP_ID = "biz_app_id", "The merchant's app, in SPI calls.";
    BIZ_CONTENT = "biz_content", "The business parameters, as opaque text.";
    CHARSET = "charset", "Charset of everything else.";
    ENCRYPT_TYPE = "encrypt_type", "`AES` on an encrypted call.";
    FORMAT = "format", "`JSON`.";
    INVOKE_APP_ID = "invoke_app_id", "The app that an SPI call is for.";
    MERCHANT_APP_ID = "merchant_app_id", "The merchant's app, in SPI calls that tell it apart.";
    METHOD = "method", "Name of the API.";
    MSG_METHOD = "msg_method", "Kind of a platform message.";
    NOTIFY_ID = "notify_id", "Identity of a notification, kept over its resends.";
    NOTIFY_TIME = "notify_time", "When a notification was sent.";
    NOTIFY_TYPE = "notify_type", "Kind of a notification.";
    NOTIFY_URL = "notify_url", "Where notifications of this call go.";
    OUT_TRADE_NO = "out_trade_no", "The merchant's order number.";
    PROD_CODE = "prod_code", "Product of the call.";
    RETURN_URL = "return_url", "Where the browser goes afterwards.";
    SERVICE = "service", "Kind of a life-account event.";
    SIGN = "sign", "The signature.";
    SIGN_TYPE = "sign_type", "The signature's algorithm.";
    STATUS = "status", "State that an authorisation message tells.";
    TARGET_APP_ID = "target_app_id", "Target of a proxied call.";
    TERMINAL_INFO = "terminal_info", "Terminal of the call.";
    TERMINAL_TYPE = "terminal_type", "Kind of the terminal.";
    TIMESTAMP = "timestamp", "Time of the call, see [`timestamp`](crate::protocol::timestamp).";
    UTC_TIMESTAMP = "utc_timestamp", "Time of a platform message, in milliseconds, or of an SPI call, in seconds.";
    VERSION = "version", "Version of the interface.";
    WS_SERVICE_URL = "ws_service_url", "Passed on for the Java SDK.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_protocol_are_not_copied() {
        let is_copied = |name: Name| matches!(name.0, Cow::Owned(_));
        for text in ["app_id", "my_own"] {
            let (owned, is_ours) = (text.to_owned(), text == "my_own");
            assert_eq!(is_copied(Name::from(text)), is_ours);
            assert_eq!(is_copied(Name::from(&owned)), is_ours);
            assert_eq!(is_copied(Name::from(owned.clone())), is_ours);
            assert_eq!(is_copied(Name::from(Cow::Borrowed(text))), is_ours);
            assert_eq!(is_copied(Name::from(Cow::Owned(owned))), is_ours);
            assert_eq!(&*Name::from(text), text);
        }
        assert_eq!(format!("{:?}", Name::from("a")), "\"a\"");
    }
}
