//! What only shows by asking: whether Alipay knows an app and takes its key, and whether what is
//! sent to the public address comes in as it was sent. Nothing is changed by it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::AdminParts;
use crate::admin::error::AdminError;
use crate::admin::page::Page;
use crate::model::id::AppId;
use crate::token::{AskError, Dialect, Greeting};
use crate::webhook::own_address::OwnAddressView;

/// An app as Alipay sees it.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct AppLook {
    /// Our application.
    pub app_id: String,
    /// The gateway that was asked, in v2; what follows is what it said.
    #[serde(default)]
    pub gateway: String,
    /// `good`; `refused`: Alipay doesn't take what the app signs; `failed`: there was no verified
    /// answer.
    pub verdict: String,
    /// Alipay's `sub_code`, or the sidecar's own code of what failed.
    pub error: Option<String>,
    /// What is wrong, and what to do.
    pub detail: Option<String>,
    /// How far this machine's clock is ahead of Alipay's, seconds.
    pub clock_ahead_s: Option<i64>,
    /// How long the call took, milliseconds.
    pub took_ms: Option<u64>,
    /// The same question, asked in v3.
    #[serde(default)]
    pub v3: V3Look,
}

/// What v3 says of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct V3Look {
    /// The origin that was asked.
    pub origin: String,
    /// As that of v2; an error that Alipay didn't sign is `good`, because in v3 it may.
    pub verdict: String,
    /// Alipay's `code`, or the sidecar's own code of what failed.
    pub error: Option<String>,
    /// What is wrong, and what to do.
    pub detail: Option<String>,
    /// How long the call took, milliseconds.
    pub took_ms: Option<u64>,
}

/// Asks Alipay something harmless as `app_id`, in v2 and then in v3.
///
/// # Errors
/// [`AdminError`] where no such app can sign.
pub async fn at_app(parts: &AdminParts, app_id: &AppId) -> Result<AppLook, AdminError> {
    let unknown = || AskError::AppUnknown {
        app_id: app_id.to_string(),
    };
    let app = parts.apps.get(app_id).ok_or_else(unknown)?;
    let v2 = parts.tokens.greet(app_id, Dialect::V2).await;
    let v3 = parts.tokens.greet(app_id, Dialect::V3).await;
    let ahead_s = v2.as_ref().ok().and_then(|greeting| greeting.ahead_s);
    let (v2, v3) = (Verdict::of(v2, Dialect::V2), Verdict::of(v3, Dialect::V3));
    Ok(AppLook {
        app_id: app_id.to_string(),
        gateway: app.endpoints.gateway.clone(),
        verdict: v2.word.to_owned(),
        error: v2.error,
        detail: v2.detail,
        clock_ahead_s: ahead_s,
        took_ms: v2.took_ms,
        v3: V3Look {
            origin: app.endpoints.v3.clone(),
            verdict: v3.word.to_owned(),
            error: v3.error,
            detail: v3.detail,
            took_ms: v3.took_ms,
        },
    })
}

/// The public address as it looks from here; empty where there is none.
pub async fn at_own_address(parts: &AdminParts) -> Page<OwnAddressView> {
    let looked = parts.webhook.look_at_own_address(&parts.client).await;
    Page::whole(looked.unwrap_or_default())
}

/// What is to be thought of an answer, or of its absence.
struct Verdict {
    word: &'static str,
    error: Option<String>,
    detail: Option<String>,
    took_ms: Option<u64>,
}

impl Verdict {
    fn of(greeting: Result<Greeting, AskError>, dialect: Dialect) -> Self {
        match greeting {
            Ok(greeting) => Self::answered(&greeting, dialect),
            Err(error) => Self {
                word: "failed",
                error: Some(error.kind().to_owned()),
                detail: Some(why(&error)),
                took_ms: None,
            },
        }
    }

    fn answered(greeting: &Greeting, dialect: Dialect) -> Self {
        let hint = hint(greeting, dialect);
        let said = [&greeting.sub_code, &greeting.code];
        let said = said.into_iter().find(|word| !word.is_empty());
        Self {
            word: if hint.is_some() { "refused" } else { "good" },
            error: hint.and(said).cloned(),
            detail: hint.map(str::to_owned),
            took_ms: u64::try_from(greeting.took.as_millis()).ok(),
        }
    }
}

/// What to do about an answer that says that the app isn't taken. That Alipay doesn't know the token
/// that was asked about is what was to be expected.
fn hint(greeting: &Greeting, dialect: Dialect) -> Option<&'static str> {
    // v3 leaves the prefix away.
    let code = greeting.sub_code.trim_start_matches("isv.");
    Some(match code {
        "invalid-signature" => {
            "the console has another 应用公钥 than that of private_key; upload the one that `alipay-sidecar \
             app show` prints, or set the key that belongs to it"
        }
        "app-cert-not-exist" | "invalid-app-cert-sn" => {
            "Alipay doesn't know app_cert; download it again from the console"
        }
        "missing-signature-key" | "missing-signature-config" => {
            "the console has no 应用公钥 for this app; upload one (接口加签方式)"
        }
        "invalid-app-id" => {
            "Alipay knows no such app here; compare app_id, and `environment`: sandbox apps live elsewhere"
        }
        "invalid-timestamp" => "set this machine's clock",
        _ if code.contains("signature") => {
            "Alipay doesn't take the signature; compare the keys with the console"
        }
        // v3 may leave any error unsigned.
        _ if !greeting.is_signed && matches!(dialect, Dialect::V2) => {
            "Alipay answered without a signature, as it does for apps it can't identify; compare app_id and keys"
        }
        _ => return None,
    })
}

/// The error with what lies beneath it: "no connection could be made" alone helps nobody.
fn why(error: &AskError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let told = cause.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn greeting(sub_code: &str, is_signed: bool) -> Greeting {
        Greeting {
            is_signed,
            code: "40004".to_owned(),
            sub_code: sub_code.to_owned(),
            ahead_s: Some(0),
            took: Duration::from_millis(1),
        }
    }

    #[test]
    fn that_the_token_is_nobodys_is_the_good_answer() {
        for sub_code in [
            "isv.invalid-app-auth-token",
            "aop.invalid-app-auth-token",
            "isv.insufficient-isv-permissions",
        ] {
            assert_eq!(
                hint(&greeting(sub_code, true), Dialect::V2),
                None,
                "{sub_code}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_an_app_has_a_hint() {
        for (sub_code, is_signed, part) in [
            ("isv.invalid-signature", true, "应用公钥"),
            ("isv.app-cert-not-exist", true, "app_cert"),
            ("isv.invalid-app-id", false, "sandbox"),
            ("isv.invalid-timestamp", true, "clock"),
            ("isv.some-other", false, "without a signature"),
        ] {
            let hint = hint(&greeting(sub_code, is_signed), Dialect::V2).expect("a hint");
            assert!(hint.contains(part), "{sub_code}: {hint}");
        }
    }

    #[test]
    fn v3_names_errors_without_their_prefix_and_needn_t_sign_them() {
        let unsigned = |code| hint(&greeting(code, false), Dialect::V3);
        assert_eq!(unsigned("invalid-app-auth-token"), None);
        let hint = unsigned("invalid-signature").expect("a hint");
        assert!(hint.contains("应用公钥"), "{hint}");
    }
}
