//! `[delivery]`: how notifications reach the backend.

use std::ops::RangeInclusive;
use std::time::Duration;

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine};
use serde_json::{Value, json};

use crate::config::error::Mismatch;
use crate::config::misfits::Given;
use crate::config::proxy::selector;
use crate::config::section::Section;
use crate::config::{url, value, view};
use crate::model::id::AppId;
use crate::protocol::secret::Secret;

/// `[delivery]`.
#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    /// Where what no route fits goes; `None`: it stays in the inbox until pulled.
    pub url: Option<String>,
    /// In which form.
    pub format: DeliveryFormat,
    /// Deadline of one attempt.
    pub timeout: Duration,
    /// How many attempts run at once towards one backend.
    pub concurrency: usize,
    /// After how long a delivery is dead.
    pub give_up_after: Duration,
    /// The secret of the Standard Webhooks signature.
    pub signing_secret: Option<Secret<String>>,
    /// What counts as taken; `None`: by format.
    pub ack: Option<AckRule>,
    /// How authorisation messages are delivered.
    pub authorization: AuthorizationDelivery,
    /// How long delivered entries are kept.
    pub retain_delivered: Duration,
    /// Pending deliveries above which new notifications are refused.
    pub high_water: u64,
    /// `[[delivery.route]]`, in order.
    pub routes: Vec<DeliveryRoute>,
}

impl DeliveryConfig {
    pub(crate) fn read(section: &mut Section<'_>) -> Self {
        let default = Self::default();
        let routes = section.take("route");
        let routes = Section::of_list(
            section.reading,
            ("delivery.route", "delivery.route"),
            routes,
        );
        let config = Self {
            url: section.optional("url", url::any),
            format: section.word("format", &FORMATS).unwrap_or(default.format),
            timeout: section
                .text("timeout", value::positive_duration)
                .unwrap_or(default.timeout),
            concurrency: concurrency(section).unwrap_or(default.concurrency),
            give_up_after: section
                .text("give_up_after", value::positive_duration)
                .unwrap_or(default.give_up_after),
            signing_secret: section.secret_of_form("signing_secret", check_signing_secret),
            ack: ack(section),
            authorization: section
                .word("authorization", &AUTHORIZATIONS)
                .unwrap_or(default.authorization),
            retain_delivered: section
                .text("retain_delivered", value::duration)
                .unwrap_or(default.retain_delivered),
            high_water: section
                .integer("high_water", 1..=i64::MAX)
                .and_then(|pending| u64::try_from(pending).ok())
                .unwrap_or(default.high_water),
            routes: routes.iter().map(DeliveryRoute::read).collect(),
        };
        if let Some(mismatch) = config.tells_tokens() {
            section.fault("authorization", mismatch);
        }
        config
    }

    /// What is wrong where tokens would go unencrypted, and off this host.
    fn tells_tokens(&self) -> Option<Mismatch> {
        if self.authorization == AuthorizationDelivery::Event {
            return None;
        }
        let urls = self.routes.iter().map(|route| &route.url).chain(&self.url);
        let mut open = urls.filter(|url| !url.is_empty() && !url::is_private(url));
        let found = format!("tokens, in clear text to {}", open.next()?);
        let hint = "or an https:// URL: Alipay's own messages carry app_auth_tokens";
        Some(Mismatch::new(found, "\"event\", which holds none").hint(hint))
    }

    /// Entries may be kept for ever, and none be taken (`high_water`).
    pub(super) fn judge(&mut self, mut given: Given<'_>) {
        given.texts("url", &mut self.url, url::any);
        given.check("timeout", value::deadline(self.timeout));
        given.check("concurrency", value::within(self.concurrency, &AT_ONCE));
        given.check("give_up_after", value::above_zero(self.give_up_after));
        // Under an empty one anybody could sign.
        let secret = self.signing_secret.as_ref().map(check_signing_secret);
        given.check("signing_secret", secret.unwrap_or(Ok(())));
        let tells = self.tells_tokens();
        given.check("authorization", tells.map_or(Ok(()), Err));
        for (index, route) in self.routes.iter_mut().enumerate() {
            route.judge(given.list_item("route", index));
        }
    }

    pub(crate) fn view(&self) -> Value {
        json!({
            "url": view::text(self.url.as_ref()),
            "format": view::word(&FORMATS, self.format),
            "timeout": view::duration(self.timeout),
            "concurrency": self.concurrency,
            "give_up_after": view::duration(self.give_up_after),
            "signing_secret": view::secret(self.signing_secret.as_ref()),
            "ack": self.ack.map_or("", |ack| view::word(&ACKS, ack)),
            "authorization": view::word(&AUTHORIZATIONS, self.authorization),
            "retain_delivered": view::duration(self.retain_delivered),
            "high_water": self.high_water,
            "route": self.routes.iter().map(|route| route.view(self)).collect::<Vec<_>>(),
        })
    }
}

/// The key of Standard Webhooks: `whsec_` and base64, padded or not, or else the bytes of any text.
///
/// `None`: it is empty, or what follows `whsec_` is no base64.
#[must_use]
pub fn webhook_key(secret: &Secret<String>) -> Option<Secret<Vec<u8>>> {
    let text = secret.expose().trim();
    let key = match text.strip_prefix("whsec_") {
        Some(encoded) => UNPADDED_TOO.decode(encoded).ok()?,
        None => text.as_bytes().to_vec(),
    };
    (!key.is_empty()).then(|| Secret::new(key))
}

/// The other implementations of Standard Webhooks take secrets without padding.
const UNPADDED_TOO: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A typing mistake must not become another key.
fn check_signing_secret(secret: &Secret<String>) -> Result<(), Mismatch> {
    let wrong = || {
        let found = "an empty secret, or whsec_ with no base64 behind it";
        Mismatch::new(found, "whsec_ and base64, or any other text")
    };
    webhook_key(secret).map(drop).ok_or_else(wrong)
}

fn concurrency(section: &Section<'_>) -> Option<usize> {
    let given = section.integer("concurrency", AT_ONCE)?;
    usize::try_from(given).ok()
}

/// Up to enough for any backend: each attempt is a connection, and a body in memory.
const AT_ONCE: RangeInclusive<i64> = 1..=1024;

fn ack(section: &Section<'_>) -> Option<AckRule> {
    let is_unset = section.item("ack").and_then(|item| item.text()) == Some("");
    if is_unset {
        None
    } else {
        section.word("ack", &ACKS)
    }
}

const FORMATS: [(&str, DeliveryFormat); 2] = [
    ("form", DeliveryFormat::Form),
    ("json", DeliveryFormat::Json),
];

const ACKS: [(&str, AckRule); 2] = [
    ("success", AckRule::SuccessBody),
    ("2xx", AckRule::AnySuccessStatus),
];

const AUTHORIZATIONS: [(&str, AuthorizationDelivery); 3] = [
    ("event", AuthorizationDelivery::Event),
    ("verbatim", AuthorizationDelivery::Verbatim),
    ("both", AuthorizationDelivery::Both),
];

/// One `[[delivery.route]]`: the first whose conditions all fit takes the delivery.
#[derive(Debug, Clone, Default)]
pub struct DeliveryRoute {
    /// Where to.
    pub url: String,
    /// Glob over the event type.
    pub event_type: Option<String>,
    /// Our app.
    pub app: Option<String>,
    /// The merchant's application, PID or alias.
    pub merchant: Option<String>,
    /// Glob over the notify path.
    pub path: Option<String>,
    /// In which form, if another than `[delivery]`'s.
    pub format: Option<DeliveryFormat>,
    /// What counts as taken, if another than `[delivery]`'s.
    pub ack: Option<AckRule>,
    /// Deadline of one attempt, if another than `[delivery]`'s.
    pub timeout: Option<Duration>,
    /// How many attempts run at once towards its url, if another number than `[delivery]`'s.
    pub concurrency: Option<usize>,
}

impl DeliveryRoute {
    fn read(section: &Section<'_>) -> Self {
        let url = section.optional("url", url::any);
        section.require("url", ROUTE_NEEDS);
        let route = Self {
            url: url.unwrap_or_default(),
            event_type: section.optional("match", value::glob),
            app: section.optional("app", app),
            merchant: section.optional("merchant", merchant),
            path: section.optional("path", value::glob),
            format: section.word("format", &FORMATS),
            ack: ack(section),
            timeout: section.text("timeout", value::positive_duration),
            concurrency: concurrency(section),
        };
        section.finish();
        route
    }

    fn judge(&mut self, mut given: Given<'_>) {
        match self.url.is_empty() {
            true => given.fault("url", Mismatch::new("nothing", ROUTE_NEEDS)),
            false => given.texts("url", [&mut self.url], url::any),
        }
        given.texts("match", &mut self.event_type, value::glob);
        given.texts("app", &mut self.app, app);
        given.texts("merchant", &mut self.merchant, merchant);
        given.texts("path", &mut self.path, value::glob);
        let timeout = self.timeout.map(value::deadline);
        given.check("timeout", timeout.unwrap_or(Ok(())));
        let at_once = self.concurrency.map(|given| value::within(given, &AT_ONCE));
        given.check("concurrency", at_once.unwrap_or(Ok(1)));
    }

    /// What holds for it: its own, else what `all` say.
    fn view(&self, all: &DeliveryConfig) -> Value {
        let ack = self.ack.or(all.ack);
        json!({
            "url": self.url,
            "match": view::text(self.event_type.as_ref()),
            "app": view::text(self.app.as_ref()),
            "merchant": view::text(self.merchant.as_ref()),
            "path": view::text(self.path.as_ref()),
            "format": view::word(&FORMATS, self.format.unwrap_or(all.format)),
            "ack": ack.map_or("", |ack| view::word(&ACKS, ack)),
            "timeout": view::duration(self.timeout.unwrap_or(all.timeout)),
            "concurrency": self.concurrency.unwrap_or(all.concurrency),
        })
    }
}

/// What is expected of a route's `url`.
const ROUTE_NEEDS: &str = "where this route delivers to, an http:// or https:// URL";

fn merchant(text: &str) -> Result<String, Mismatch> {
    selector(text).map(|_| text.to_owned())
}

fn app(text: &str) -> Result<String, Mismatch> {
    AppId::new(text)
        .map(|app_id| app_id.to_string())
        .map_err(|error| Mismatch::of_text(text, error.expected))
}

/// In which form a notification is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryFormat {
    /// As Alipay sent it, byte for byte.
    Form,
    /// As one JSON object.
    Json,
}

/// What counts as taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckRule {
    /// Any 2xx.
    AnySuccessStatus,
    /// 2xx and a body that is, trimmed, exactly `success`.
    SuccessBody,
}

/// How authorisation messages are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationDelivery {
    /// Both ways.
    Both,
    /// As an event without a token.
    Event,
    /// As Alipay sent it, token and all.
    Verbatim,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            url: None,
            format: DeliveryFormat::Form,
            timeout: Duration::from_secs(15),
            // Answering in 100 ms a backend takes 320 notifications a second, and a dead one holds
            // no more connections than this.
            concurrency: 32,
            give_up_after: Duration::from_hours(72),
            signing_secret: None,
            ack: None,
            authorization: AuthorizationDelivery::Event,
            retain_delivered: Duration::from_hours(7 * 24),
            high_water: 1_000_000,
            routes: Vec::new(),
        }
    }
}
