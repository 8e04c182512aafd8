//! The pages that a merchant's browser may see: plain, in two languages, without a secret.

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};

use crate::webhook::answer::{self, Answer};

/// What a page says: Chinese, English.
type Words = (&'static str, &'static str);

/// What a page tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// Alipay refused the code.
    CodeRefused,
    /// Alipay couldn't be asked.
    ExchangeFailed,
    /// A parameter is missing or unusable.
    Malformed,
    /// `webhook.public_url` isn't set.
    NoPublicUrl,
    /// A user logged in, and nobody said where such users go.
    NoUserReturn,
    /// The `app_id` isn't ours.
    UnknownApp,
    /// It worked.
    Worked,
    /// The `state` is missing where it must be there.
    StateMissing,
    /// The `state` is wrong, used or expired.
    StateRefused,
    /// Too many codes were refused lately.
    TooManyCodes {
        /// After how many seconds it is worth to come again.
        wait_s: u32,
    },
    /// Too many `ref`s were kept lately.
    TooManyRefs {
        /// The same.
        wait_s: u32,
    },
    /// The store refused, or too much is under way.
    Unavailable,
}

impl Page {
    /// One of each kind.
    pub(super) const ALL: [Self; 12] = [
        Self::CodeRefused,
        Self::ExchangeFailed,
        Self::Malformed,
        Self::NoPublicUrl,
        Self::NoUserReturn,
        Self::StateMissing,
        Self::StateRefused,
        Self::TooManyCodes { wait_s: 0 },
        Self::TooManyRefs { wait_s: 0 },
        Self::Unavailable,
        Self::UnknownApp,
        Self::Worked,
    ];

    /// As metrics and the audit log name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::CodeRefused => "code-refused",
            Self::ExchangeFailed => "exchange-failed",
            Self::Malformed => "malformed",
            Self::NoPublicUrl => "no-public-url",
            Self::NoUserReturn => "no-user-return",
            Self::StateMissing => "state-missing",
            Self::StateRefused => "state-refused",
            Self::TooManyCodes { .. } => "too-many-codes",
            Self::TooManyRefs { .. } => "too-many-refs",
            Self::Unavailable => "unavailable",
            Self::UnknownApp => "app-unknown",
            Self::Worked => "accepted",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::CodeRefused
            | Self::Malformed
            | Self::StateMissing
            | Self::StateRefused
            | Self::UnknownApp => StatusCode::BAD_REQUEST,
            Self::ExchangeFailed => StatusCode::BAD_GATEWAY,
            Self::NoPublicUrl
            | Self::TooManyCodes { .. }
            | Self::TooManyRefs { .. }
            | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoUserReturn => StatusCode::NOT_FOUND,
            Self::Worked => StatusCode::OK,
        }
    }

    /// The title and the text. A table, so it may be long.
    fn words(self) -> (Words, Words) {
        const FAILED: Words = ("授权未完成", "Authorisation not completed");
        match self {
            Self::CodeRefused => (
                FAILED,
                (
                    "支付宝拒绝了授权码:它可能已被使用或已过期。请重新发起授权。",
                    "Alipay refused the authorisation code: it may have been used or expired. Please authorise again.",
                ),
            ),
            Self::ExchangeFailed => (
                FAILED,
                (
                    "暂时无法与支付宝确认授权。请稍后刷新本页。",
                    "The authorisation could not be confirmed with Alipay. Please reload this page in a while.",
                ),
            ),
            Self::Malformed => (
                FAILED,
                (
                    "链接不完整或参数有误。",
                    "The link is incomplete, or a parameter is wrong.",
                ),
            ),
            Self::NoPublicUrl => (
                ("尚未配置", "Not configured yet"),
                (
                    "请先设置 webhook.public_url(支付宝可以访问的公网地址)。",
                    "Set webhook.public_url (the address that Alipay reaches) first.",
                ),
            ),
            Self::NoUserReturn => (
                ("尚未配置", "Not configured"),
                (
                    "未设置 webhook.user_auth_return_url,无法处理用户授权。",
                    "webhook.user_auth_return_url is not set, so users' authorisations have nowhere to go.",
                ),
            ),
            Self::StateMissing | Self::StateRefused => (
                FAILED,
                (
                    "授权链接无效、已使用或已过期。请向服务商索取新的链接。",
                    "The link is invalid, used or expired. Please ask your service provider for a new one.",
                ),
            ),
            Self::TooManyCodes { .. } | Self::TooManyRefs { .. } | Self::Unavailable => (
                FAILED,
                (
                    "服务暂时不可用。请稍后刷新本页。",
                    "The service is not available at present. Please reload this page in a while.",
                ),
            ),
            Self::UnknownApp => (
                FAILED,
                (
                    "未知的应用,或需要指明 app_id。",
                    "The app is unknown, or app_id must say which one is meant.",
                ),
            ),
            Self::Worked => (
                ("授权成功", "Authorised"),
                (
                    "授权已完成,可以关闭本页。",
                    "The authorisation is complete. You may close this page.",
                ),
            ),
        }
    }

    pub(super) fn answer(self) -> Answer {
        let ((title_zh, title_en), (text_zh, text_en)) = self.words();
        // Only words of this file stand in the page: nothing of the request, so nothing to escape.
        let html = format!(
            "<!DOCTYPE html>\n<html lang=\"zh-CN\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\">\
             <title>{title_zh} · {title_en}</title></head><body>\
             <h1>{title_zh}</h1><p>{text_zh}</p>\
             <section lang=\"en\"><h2>{title_en}</h2><p>{text_en}</p></section></body></html>\n"
        );
        let mut answer = answer::of(self.status(), "text/html; charset=utf-8", html);
        let headers = answer.headers_mut();
        for (name, value) in [
            (CACHE_CONTROL, "no-store"),
            (
                CONTENT_SECURITY_POLICY,
                "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
            (REFERRER_POLICY, "no-referrer"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        match self {
            Self::TooManyCodes { wait_s } | Self::TooManyRefs { wait_s } => {
                answer::retry_after(&mut answer, wait_s);
            }
            Self::Unavailable => answer::retry_after(&mut answer, 1),
            _ => {}
        }
        answer
    }
}
