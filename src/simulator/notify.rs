//! Notifications: signed, sent, sent again until they are acknowledged or given up.
//!
//! Protocol: 异步通知 (payments) and 消息服务 From Ant (platform messages).
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Serialize;

use super::{
    Inner, calendar,
    charset::Charset,
    error::SimulatorError,
    faults::Strike,
    ids, money,
    node::Signer,
    params, service_check, sign,
    trades::{Refund, Trade},
    world::World,
};

/// Waits before the deliveries of a payment notification, in seconds: 8 within 25 hours.
const PAYMENT_SCHEDULE: [u64; 8] = [0, 240, 600, 600, 3600, 7200, 21_600, 54_000];
/// Waits before the deliveries of a platform message, in seconds.
const MESSAGE_SCHEDULE: [u64; 8] = [0, 120, 600, 600, 3600, 7200, 21_600, 54_000];
/// How long Alipay waits for an answer: its own trace shows `timeout:16000`.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(16);
/// How much of an answer is read.
const ANSWER_LIMIT: usize = 64 * 1024;
/// How much of an answer is kept in the record.
const ANSWER_KEPT: usize = 4096;

/// Which family a notification belongs to: its time parameter, signature and schedule follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// `notify_type` of a payment, to `notify_url`; V1.
    Payment,
    /// `notify_type` of an old platform message, to the app gateway; V1.
    OldMessage,
    /// `msg_method` of a From Ant message, to the app gateway; V1.
    Message,
    /// `alipay.service.check` of a life account; V2, answered with signed XML, sent once.
    ServiceCheck,
}

impl Family {
    fn schedule(self) -> &'static [u64] {
        match self {
            Self::Payment => &PAYMENT_SCHEDULE,
            Self::OldMessage | Self::Message => &MESSAGE_SCHEDULE,
            Self::ServiceCheck => &[0],
        }
    }
}

/// A notification to be sent; `notify_id` stays the same over all attempts.
#[derive(Clone, Debug)]
pub(super) struct Notice {
    pub(super) event: &'static str,
    pub(super) family: Family,
    pub(super) app_id: String,
    pub(super) notify_id: String,
    pub(super) url: String,
    /// All parameters but the time, `sign` and `sign_type`.
    pub(super) params: Vec<(String, String)>,
    /// How often it is sent at most.
    pub(super) attempts: usize,
    /// Where Alipay would not have sent it: why.
    pub(super) remark: Option<&'static str>,
    /// That of its record, once it is registered.
    pub(super) number: u64,
}

impl Notice {
    /// Makes a notice to `url` with a new `notify_id`.
    pub(super) fn new(
        (event, family): (&'static str, Family),
        app_id: &str,
        url: &str,
        params: Vec<(&str, String)>,
    ) -> Self {
        let notify_id = format!("20261122{}", ids::hex(13));
        let mut all = vec![("charset".to_owned(), "UTF-8".to_owned())];
        if family != Family::ServiceCheck {
            all.push(("notify_id".to_owned(), notify_id.clone()));
            all.push(("app_id".to_owned(), app_id.to_owned()));
            all.push(("version".to_owned(), "1.0".to_owned()));
        }
        let mut notice = Self {
            event,
            family,
            app_id: app_id.to_owned(),
            notify_id,
            url: url.to_owned(),
            params: all,
            attempts: family.schedule().len(),
            remark: None,
            number: 0,
        };
        for (name, value) in params {
            notice.set(name, &value);
        }
        notice
    }

    /// Sets a parameter; an empty value takes it away.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.params.retain(|(other, _)| other != name);
        if !value.is_empty() {
            self.params.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The charset that its own parameter names.
    pub(super) fn charset(&self) -> Charset {
        self.param("charset")
            .and_then(Charset::of)
            .unwrap_or_default()
    }

    /// Gives a parameter.
    pub(super) fn param(&self, wanted: &str) -> Option<&str> {
        let mut all = self.params.iter();
        all.find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
    }

    /// Refuses a charset that isn't Alipay's, and text that it lacks a character for.
    pub(super) fn check_charset(&self) -> Result<(), SimulatorError> {
        let label = self.param("charset").unwrap_or("UTF-8");
        let is_known = Charset::of(label).is_some();
        let fits = |text: &String| self.charset().encode(text).is_some();
        if is_known && self.params.iter().all(|(_, value)| fits(value)) {
            return Ok(());
        }
        Err(SimulatorError::OptionInvalid {
            option: "charset",
            found: label.to_owned(),
            expected: "UTF-8, GBK or GB2312, with a code for every character",
        })
    }

    /// Writes the form body of one attempt, with its time and signature.
    fn body(&self, now: i64, signer: &Signer, strike: Option<Strike>) -> String {
        let mut sent = self.clone();
        let given = |name: &str| self.params.iter().any(|(other, _)| other == name);
        match self.family {
            Family::Message if !given("utc_timestamp") => {
                sent.set("utc_timestamp", &now.to_string());
            }
            Family::Payment | Family::OldMessage if !given("notify_time") => {
                sent.set("notify_time", &calendar::spell(now));
            }
            _ => {}
        }
        sent.set("sign_type", signer.sign_type.as_str());
        if let Some(sn) = &signer.alipay_cert_sn {
            sent.set("alipay_cert_sn", sn);
        }
        let left_out: &[&str] = match self.family {
            Family::ServiceCheck => &["sign"],
            _ => &["sign", "sign_type"],
        };
        let pairs = sent
            .params
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let content = sign::sign_content(pairs, left_out);
        let sign = signer.sign(&content);
        if strike.is_some() {
            sent.set("notify_id", &format!("{}0", self.notify_id));
        }
        sent.set("sign", &sign);
        params::write_form(&sent.params, self.charset())
    }
}

/// A notification with all that happened to it.
#[derive(Clone, Debug, Serialize)]
pub struct NotificationRecord {
    /// The id that all its attempts carry.
    pub notify_id: String,
    /// Which event it is: the name `trigger` has for it, or `close` of a trade that a call has closed.
    pub event: &'static str,
    /// The receiving app.
    pub app_id: String,
    /// Where it is sent.
    pub url: String,
    /// What became of it.
    pub state: NotificationState,
    /// The form body of the newest attempt.
    pub body: String,
    /// The attempts so far.
    pub attempts: Vec<AttemptRecord>,
    /// Where Alipay would not have sent it: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<&'static str>,
}

/// What became of a notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotificationState {
    /// It was answered with exactly `success` (or a good signed XML).
    Acked,
    /// No attempt is left.
    GivenUp,
    /// It is sent, or will be sent again.
    Pending,
}

/// One delivery and its answer.
#[derive(Clone, Debug, Serialize)]
pub struct AttemptRecord {
    /// When it was sent, milliseconds since 1970.
    pub sent_at: i64,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The answer's body, cut at 4096 characters.
    pub answer: String,
    /// Why there was no answer.
    pub error: Option<String>,
    /// Whether it counts as taken.
    pub acked: bool,
}

/// Makes the `trade_status_sync` of a payment, with `refund` of a refund, or of a trade that was
/// closed unpaid; that says nothing of what was paid.
///
/// None when the trade was made without `notify_url`.
pub(super) fn payment(trade: &Trade, refund: Option<&Refund>) -> Option<Notice> {
    let url = trade.notify_url.as_deref()?;
    let total = money::spell(trade.total);
    // Empty values aren't sent.
    let if_paid = |text: String| match trade.paid_at {
        Some(_) => text,
        None => String::new(),
    };
    let mut params = vec![
        ("notify_type", "trade_status_sync".to_owned()),
        (
            "auth_app_id",
            trade
                .auth_app_id
                .clone()
                .unwrap_or_else(|| trade.app_id.clone()),
        ),
        ("trade_no", trade.trade_no.clone()),
        ("out_trade_no", trade.out_trade_no.clone()),
        ("subject", trade.subject.clone()),
        ("buyer_id", trade.buyer_id.clone()),
        ("seller_id", trade.seller_id.clone()),
        ("trade_status", trade.status.as_str().to_owned()),
        ("total_amount", total.clone()),
        ("receipt_amount", if_paid(total.clone())),
        ("buyer_pay_amount", if_paid(total.clone())),
        (
            "fund_bill_list",
            if_paid(format!(
                r#"[{{"amount":"{total}","fundChannel":"ALIPAYACCOUNT"}}]"#
            )),
        ),
        ("gmt_create", calendar::spell(trade.created_at)),
        (
            "gmt_payment",
            trade.paid_at.map(calendar::spell).unwrap_or_default(),
        ),
        (
            "passback_params",
            trade.passback_params.clone().unwrap_or_default(),
        ),
    ];
    let mut event = match trade.paid_at {
        Some(_) => "payment",
        None => "close",
    };
    if let Some(refund) = refund {
        event = "refund";
        params.push(("refund_fee", money::spell(trade.refunded())));
        params.push(("out_biz_no", refund.out_request_no.clone()));
        params.push(("gmt_refund", format!("{}.000", calendar::spell(refund.at))));
    }
    let mut notice = Notice::new((event, Family::Payment), &trade.app_id, url, params);
    if let Some(charset) = &trade.charset {
        notice.set("charset", charset);
    }
    if notice.check_charset().is_err() {
        // A JSON escape gave the subject a character that GBK lacks.
        notice.set("charset", "UTF-8");
    }
    Some(notice)
}

/// Sends whatever the last call owes.
pub(super) fn send_outbox(inner: &Arc<Inner>) {
    for mut notice in inner.with_world(|world| std::mem::take(&mut world.outbox)) {
        register(inner, &mut notice);
        continue_later(inner, notice, 0);
    }
}

/// Opens the notice's record.
pub(super) fn register(inner: &Inner, notice: &mut Notice) {
    let record = NotificationRecord {
        notify_id: notice.notify_id.clone(),
        event: notice.event,
        app_id: notice.app_id.clone(),
        url: notice.url.clone(),
        state: NotificationState::Pending,
        body: String::new(),
        attempts: Vec::new(),
        remark: notice.remark,
    };
    notice.number = inner.with_world(|world| world.notifications.open(record));
}

/// Makes the attempts from number `first` on, each after its wait, in a task of its own.
pub(super) fn continue_later(inner: &Arc<Inner>, notice: Notice, first: usize) {
    // Weak, so that a simulator nobody holds any more does not live on for the retries.
    let weak = Arc::downgrade(inner);
    let time_scale = inner.time_scale;
    inner.spawn(async move {
        for wait in notice
            .family
            .schedule()
            .iter()
            .take(notice.attempts)
            .skip(first)
        {
            tokio::time::sleep(Duration::from_secs(*wait).div_f64(time_scale)).await;
            match weak.upgrade() {
                Some(inner) if !attempt(&inner, &notice).await => {}
                _ => break,
            }
        }
    });
}

/// Sends the notice once and tells whether it was taken.
pub(super) async fn attempt(inner: &Inner, notice: &Notice) -> bool {
    let (signer, strike) = inner.with_world(|world| {
        (
            world.signer(&notice.app_id, notice.charset()),
            world.faults.strike_notification(),
        )
    });
    let sent_at = inner.now();
    // What cannot be signed is refused by everyone.
    let body = signer
        .map(|signer| notice.body(sent_at, &signer, strike))
        .unwrap_or_default();
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, post(inner, notice, body.clone()))
        .await
        .unwrap_or_else(|_| Err("no answer within 16 s".to_owned()));
    let record = match answer {
        Err(error) => AttemptRecord {
            sent_at,
            status: None,
            answer: String::new(),
            error: Some(error),
            acked: false,
        },
        Ok((status, answer)) => AttemptRecord {
            sent_at,
            status: Some(status),
            acked: status == 200 && inner.with_world(|world| is_ack(world, notice, &answer)),
            answer: String::from_utf8_lossy(&answer)
                .chars()
                .take(ANSWER_KEPT)
                .collect(),
            error: None,
        },
    };
    let acked = record.acked;
    inner.with_world(|world| note(world, notice, (body, record)));
    acked
}

fn note(world: &mut World, notice: &Notice, (body, attempt): (String, AttemptRecord)) {
    world.notifications.change(notice.number, |record| {
        record.body = body;
        record.attempts.push(attempt);
        let last = record.attempts.len() >= notice.attempts;
        record.state = match record.attempts.last() {
            Some(attempt) if attempt.acked => NotificationState::Acked,
            _ if last => NotificationState::GivenUp,
            _ => NotificationState::Pending,
        };
    });
}

/// Only the seven bytes count: no white space, no other case, no byte-order mark.
fn is_ack(world: &World, notice: &Notice, answer: &[u8]) -> bool {
    match notice.family {
        Family::ServiceCheck => world
            .apps
            .get(&notice.app_id)
            .is_some_and(|app| service_check::is_good_answer(app, answer)),
        _ => answer == b"success",
    }
}

async fn post(inner: &Inner, notice: &Notice, body: String) -> Result<(u16, Bytes), String> {
    let content_type = format!(
        "application/x-www-form-urlencoded; charset={}",
        notice.charset().label()
    );
    let request = Request::builder()
        .method(Method::POST)
        .uri(&notice.url)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::USER_AGENT, "Mozilla/4.0")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let answer = inner.client.request(request).await.map_err(|error| {
        std::error::Error::source(&error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    })?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), ANSWER_LIMIT)
        .collect()
        .await;
    Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
}
