//! The events a test can trigger.
mod platform;
mod trade;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Inner,
    error::SimulatorError,
    notify::{self, Notice, NotificationRecord},
    seed::SimulatedApp,
    service_check,
    world::World,
};

/// Something that Alipay tells a developer of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The merchant cancels the authorization.
    Cancel,
    /// A feature package was added or removed: the newest token is pushed again.
    FeaturePackage,
    /// A service-market order (`servicemarket_order_notify`).
    OrderMessage,
    /// The buyer pays.
    Payment,
    /// The merchant orders a plugin: `open_app_auth_notify` with a new token and `agent_app_id`.
    PluginOrder,
    /// The merchant authorizes again: a new token is pushed.
    ReAuthorize,
    /// A part of a trade is refunded.
    Refund,
    /// A life account's gateway is checked.
    ServiceCheck,
}

impl Event {
    /// Every event with the name `trigger` knows it by.
    pub const ALL: [(&'static str, Self); 8] = [
        ("cancel", Self::Cancel),
        ("feature-package", Self::FeaturePackage),
        ("order-message", Self::OrderMessage),
        ("payment", Self::Payment),
        ("plugin-order", Self::PluginOrder),
        ("re-authorize", Self::ReAuthorize),
        ("refund", Self::Refund),
        ("service-check", Self::ServiceCheck),
    ];

    /// Finds an event by its name.
    ///
    /// # Errors
    /// [`SimulatorError::EventUnknown`], which lists the names.
    pub fn from_name(name: &str) -> Result<Self, SimulatorError> {
        Self::ALL
            .into_iter()
            .find(|(other, _)| *other == name)
            .map(|(_, event)| event)
            .ok_or_else(|| SimulatorError::EventUnknown(name.to_owned()))
    }

    /// Gives the event's name.
    pub fn name(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(_, event)| *event == self)
            .map_or("", |(name, _)| name)
    }

    pub(super) fn names() -> String {
        Self::ALL.map(|(name, _)| name).join(", ")
    }
}

/// What a trigger may say more exactly; whatever is left out has a sensible value.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TriggerOptions {
    /// The receiving app; may be left out when there is only one.
    pub app_id: Option<String>,
    /// The merchant application; the first one when left out. Where it is named, `payment` and
    /// `refund` look at its trades alone.
    pub auth_app_id: Option<String>,
    /// The trade of `payment` and `refund`. When left out, `payment` makes one, and `refund` takes the
    /// one that was paid last, or makes one that is paid; `payment` makes one that is unknown, too.
    pub out_trade_no: Option<String>,
    /// What is paid (of a trade that is there its `total_amount` or nothing; `88.88` when left out)
    /// or refunded (half of the rest when left out).
    pub amount: Option<String>,
    /// `trade_status` of a payment: `TRADE_SUCCESS` or `TRADE_FINISHED`.
    pub trade_status: Option<String>,
    /// `auth_time` of an authorization, milliseconds since 1970; now when left out.
    pub auth_time: Option<i64>,
    /// `charset` of the notification: `UTF-8`, `GBK` or `GB2312`; when left out `GBK` for
    /// `service-check`, else `UTF-8`.
    pub charset: Option<String>,
    /// Whether `biz_content` is encrypted by the app's AES key.
    pub encrypted: bool,
    /// Where it is sent instead of the app gateway or the trade's `notify_url`.
    pub url: Option<String>,
    /// Parameters set before signing; an empty value takes one away.
    pub params: BTreeMap<String, String>,
    /// How often it is sent at most; Alipay's eight times when left out.
    pub attempts: Option<usize>,
    /// Whether the trigger returns only after the first attempt.
    pub wait: bool,
}

/// Lets the event happen and sends its notification.
pub(super) async fn trigger(
    inner: &Arc<Inner>,
    event: Event,
    options: &TriggerOptions,
) -> Result<NotificationRecord, SimulatorError> {
    let now = inner.now();
    let mut notice = inner.with_world(|world| {
        let app = world.app(options.app_id.as_deref())?.clone();
        happen(world, (&app, event), options, now)
    })?;
    if let Some(charset) = &options.charset {
        notice.set("charset", charset);
    }
    for (name, value) in &options.params {
        notice.set(name, value);
    }
    notice.check_charset()?;
    if options.encrypted {
        inner.with_world(|world| encrypt(world, &mut notice))?;
    }
    notice.attempts = options
        .attempts
        .map_or(notice.attempts, |most| most.clamp(1, notice.attempts));
    if let Some(id) = options.params.get("notify_id").filter(|id| !id.is_empty()) {
        notice.notify_id.clone_from(id);
    }
    notify::register(inner, &mut notice);
    let number = notice.number;
    if !options.wait {
        notify::continue_later(inner, notice, 0);
    } else if !notify::attempt(inner, &notice).await {
        notify::continue_later(inner, notice, 1);
    }
    let newest = |world: &mut World| world.notifications.get(number).cloned();
    inner.with_world(newest).ok_or(SimulatorError::Stopping)
}

/// Encrypts `biz_content` before anything is signed.
///
/// Protocol: 消息服务; the page only says that `charset` serves “verification and decryption”.
fn encrypt(world: &World, notice: &mut Notice) -> Result<(), SimulatorError> {
    let key = world.content_key(&notice.app_id)?;
    let biz_content = notice.param("biz_content").unwrap_or_default();
    let plaintext = notice.charset().encode(biz_content).unwrap_or_default();
    let ciphertext = key.encrypt(&plaintext).filter(|_| !plaintext.is_empty());
    let ciphertext = ciphertext.ok_or_else(|| SimulatorError::OptionInvalid {
        option: "encrypted",
        found: "true".to_owned(),
        expected: "false for an event without biz_content",
    })?;
    notice.set("biz_content", &ciphertext);
    notice.set("encrypt_type", "AES");
    Ok(())
}

fn happen(
    world: &mut World,
    (app, event): (&SimulatedApp, Event),
    options: &TriggerOptions,
    now: i64,
) -> Result<Notice, SimulatorError> {
    match event {
        Event::Payment => trade::payment(world, app, options, now),
        Event::Refund => trade::refund(world, app, options, now),
        Event::Cancel => platform::cancel(world, app, options, now),
        Event::FeaturePackage | Event::PluginOrder | Event::ReAuthorize => {
            platform::authorize(world, (app, event), options, now)
        }
        Event::OrderMessage => platform::order_message(world, app, options, now),
        Event::ServiceCheck => {
            let url = app_gateway(app, options)?;
            Ok(service_check::notice(app, &url, now))
        }
    }
}

fn app_gateway(app: &SimulatedApp, options: &TriggerOptions) -> Result<String, SimulatorError> {
    options
        .url
        .as_ref()
        .or(app.app_gateway.as_ref())
        .cloned()
        .ok_or_else(|| SimulatorError::NoAppGateway(app.app_id.clone()))
}
