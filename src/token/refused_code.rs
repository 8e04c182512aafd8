//! What a refused exchange says of its `app_auth_code`.

/// Whether a refusal may be about the code that was to be exchanged. But for `isv.code-invalid` Alipay
/// doesn't document what it says of codes, so all that it doesn't say of something else may be.
///
/// Protocol: 公共错误码.
pub(super) fn may_be_about_code(code: &str, sub_code: &str) -> bool {
    let sub_code = sub_code.to_ascii_lowercase().replace('_', "-");
    if sub_code.contains("code") {
        return true;
    }
    // An `app-auth-…` is what was asked about, not our app.
    let sub_code = sub_code.replace("app-auth", "auth");
    let mut words = sub_code.split(|c: char| !c.is_ascii_alphanumeric());
    let is_of_call = OF_THE_CALL.iter().any(|part| sub_code.contains(part))
        || words.any(|word| WORDS_OF_THE_CALL.contains(&word));
    !is_of_call && !OF_WHO_ASKS.contains(&code)
}

/// The `code`s by which Alipay refuses whoever asks, whatever it was asked: rights, what every call must
/// have, conditions, pace.
const OF_WHO_ASKS: [&str; 5] = ["20001", "40001", "40003", "40005", "40006"];
/// What stands in `sub_code`s about our app, its key, its rights and its pace, about how a call is made,
/// and about faults of Alipay's own.
const OF_THE_CALL: [&str; 13] = [
    "cert",
    "charset",
    "decrypt",
    "encrypt",
    "format",
    "limit",
    "method",
    "permission",
    "signature",
    "system-error",
    "timestamp",
    "unknow",
    "white",
];
/// The same, as whole words.
const WORDS_OF_THE_CALL: [&str; 3] = ["app", "appid", "ip"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_who_asks_is_not_about_the_code() {
        for (code, sub_code) in [
            ("40002", "isv.code-invalid"),
            ("40002", "isv.invalid-parameter"),
            ("40002", "isv.app-auth-code-invalid"),
            ("40002", "isv.invalid-app_auth_token"),
            ("40002", ""),
            ("40003", "isv.auth-code-expired"),
            ("40004", "AUTH_CODE_NOT_EXIST"),
            ("40004", "isv.something-new"),
            ("49999", "isv.something-new"),
        ] {
            assert!(may_be_about_code(code, sub_code), "{code} {sub_code}");
        }
        for (code, sub_code) in [
            ("20001", "aop.invalid-app-auth-token"),
            ("40001", "isv.missing-signature"),
            ("40002", "isv.invalid-signature"),
            ("40002", "isv.invalid-app-id"),
            ("40002", "isv.app-cert-not-exist"),
            ("40002", "isv.decryption-error-unknown"),
            ("40002", "isv.ip-not-in-list"),
            ("40003", "isv.missing-signature-config"),
            ("40003", "isv.invalid-auth-relations"),
            ("40004", "isv.app-call-limited"),
            ("40004", "AOP.SYSTEM_ERROR"),
            ("40005", "isv.app-call-limited"),
            ("40005", ""),
            ("40006", "isv.insufficient-isv-permissions"),
        ] {
            assert!(!may_be_about_code(code, sub_code), "{code} {sub_code}");
        }
    }
}
