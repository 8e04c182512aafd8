//! A small trade life: created, paid, refunded, closed.
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    calendar,
    error::SimulatorError,
    ids, money,
    node::{Node, Refusal},
    notify::{self, Notice},
    seed::DEFAULT_USER_ID,
    world::{Call, World},
};

/// `alipay.trade.pay` above this sum (1,000.00 yuan in fen) asks the buyer for a password: the
/// answer is `10003`, and the trade waits until the control route pays it.
const PASSWORD_ABOVE_FEN: i64 = 100_000;

/// All trades, by the owner's application, and then by `out_trade_no`.
#[derive(Default)]
pub(super) struct Trades(BTreeMap<String, BTreeMap<String, Trade>>);

/// One trade.
#[derive(Clone, Debug)]
pub(super) struct Trade {
    pub(super) out_trade_no: String,
    pub(super) trade_no: String,
    pub(super) subject: String,
    pub(super) total: i64,
    pub(super) refunds: Vec<Refund>,
    pub(super) status: TradeStatus,
    pub(super) notify_url: Option<String>,
    /// That of the call, and so of the notifications.
    pub(super) charset: Option<String>,
    pub(super) passback_params: Option<String>,
    pub(super) app_id: String,
    pub(super) auth_app_id: Option<String>,
    pub(super) seller_id: String,
    pub(super) buyer_id: String,
    pub(super) created_at: i64,
    pub(super) paid_at: Option<i64>,
    /// The `action` of its cancellation.
    pub(super) cancelled: Option<&'static str>,
}

/// One refund of a trade.
#[derive(Clone, Debug)]
pub(super) struct Refund {
    pub(super) out_request_no: String,
    pub(super) amount: i64,
    pub(super) at: i64,
}

/// The states of a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TradeStatus {
    /// A QR code nobody has scanned: to `alipay.trade.query` the trade doesn't exist.
    Precreated,
    WaitBuyerPay,
    TradeSuccess,
    TradeClosed,
    TradeFinished,
}

impl TradeStatus {
    /// Spells the state as `trade_status`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Precreated | Self::WaitBuyerPay => "WAIT_BUYER_PAY",
            Self::TradeSuccess => "TRADE_SUCCESS",
            Self::TradeClosed => "TRADE_CLOSED",
            Self::TradeFinished => "TRADE_FINISHED",
        }
    }
}

/// Whose trades are meant: an application's, and of those one merchant's where one is named.
#[derive(Clone, Copy)]
pub(super) struct Whose<'a> {
    pub(super) app_id: &'a str,
    pub(super) auth_app_id: Option<&'a str>,
}

impl Trade {
    /// Gives the application whose trade it is: the merchant's, or the app itself.
    fn owner(&self) -> &str {
        self.auth_app_id.as_deref().unwrap_or(&self.app_id)
    }

    fn is_of(&self, whose: Whose<'_>) -> bool {
        let is_merchants = whose.auth_app_id.is_none_or(|id| id == self.owner());
        self.app_id == whose.app_id && is_merchants
    }

    /// Sums up what was refunded.
    pub(super) fn refunded(&self) -> i64 {
        self.refunds.iter().map(|refund| refund.amount).sum()
    }

    fn node(&self) -> Node {
        let node = Node::success()
            .with("trade_no", self.trade_no.as_str())
            .with("out_trade_no", self.out_trade_no.as_str());
        if self.paid_at.is_none() {
            return node;
        }
        node.with("buyer_user_id", self.buyer_id.as_str())
            .with("buyer_logon_id", "sim***@alipay")
    }

    /// Marks the trade paid.
    pub(super) fn pay(&mut self, now: i64) {
        self.status = TradeStatus::TradeSuccess;
        self.paid_at = Some(now);
    }

    /// Books a refund; one of the whole rest closes the trade.
    pub(super) fn book_refund(&mut self, refund: Refund) {
        self.refunds.push(refund);
        if self.refunded() == self.total {
            self.status = TradeStatus::TradeClosed;
        }
    }
}

impl Trades {
    /// Finds a trade of the caller's that exists.
    fn of(&mut self, call: &Call) -> Result<&mut Trade, Refusal> {
        let trade = self.scanned_or_not(call)?;
        match trade.status {
            TradeStatus::Precreated => Err(not_there()),
            _ => Ok(trade),
        }
    }

    /// Finds a trade of the caller's by `trade_no`, where none is given by `out_trade_no`; or a QR
    /// code that nobody has scanned.
    ///
    /// Protocol: 统一收单交易查询: 如果同时存在优先取 trade_no.
    fn scanned_or_not(&mut self, call: &Call) -> Result<&mut Trade, Refusal> {
        let (out_trade_no, trade_no) = (call.biz("out_trade_no"), call.biz("trade_no"));
        let owned = self.0.get_mut(call.caller.owner());
        let found = match (trade_no, out_trade_no) {
            (Some(no), _) => owned.and_then(|owned| {
                let mut owned = owned.values_mut();
                owned.find(|trade| trade.trade_no == no)
            }),
            (None, Some(no)) => owned.and_then(|owned| owned.get_mut(&no)),
            (None, None) => {
                return Err(Refusal::business(
                    "ACQ.INVALID_PARAMETER",
                    "交易号和商户订单号不能同时为空",
                ));
            }
        };
        found.ok_or_else(not_there)
    }

    /// Finds a trade by `out_trade_no`; several merchants' of the same number are told apart only
    /// where one is named.
    pub(super) fn find(
        &mut self,
        out_trade_no: &str,
        whose: Whose<'_>,
    ) -> Result<Option<&mut Trade>, SimulatorError> {
        let owners = self.0.values_mut();
        let mut fitting = owners
            .filter_map(|owned| owned.get_mut(out_trade_no))
            .filter(|trade| trade.is_of(whose));
        let found = fitting.next();
        match fitting.next() {
            Some(_) => Err(SimulatorError::TradeAmbiguous(out_trade_no.to_owned())),
            None => Ok(found),
        }
    }

    /// Finds the trade that was paid last.
    pub(super) fn paid_last(&mut self, whose: Whose<'_>) -> Option<&mut Trade> {
        let all = self.0.values_mut().flat_map(BTreeMap::values_mut);
        let whose = all.filter(|trade| trade.is_of(whose));
        let paid = whose.filter(|trade| trade.status == TradeStatus::TradeSuccess);
        paid.max_by_key(|trade| trade.paid_at)
    }

    /// Adds a trade whose number its owner hasn't used, by whatever app.
    pub(super) fn add(&mut self, trade: Trade) -> Result<(), SimulatorError> {
        let owned = self.0.get(trade.owner());
        if let Some(there) = owned.and_then(|owned| owned.get(&trade.out_trade_no)) {
            return Err(SimulatorError::TradeOfAnotherApp {
                out_trade_no: trade.out_trade_no,
                app_id: there.app_id.clone(),
            });
        }
        self.insert(trade);
        Ok(())
    }

    fn insert(&mut self, trade: Trade) {
        let owned = self.0.entry(trade.owner().to_owned()).or_default();
        owned.insert(trade.out_trade_no.clone(), trade);
    }

    /// Describes every trade for `GET /simulator/state`.
    pub(super) fn state(&self) -> Value {
        self.0
            .values()
            .flat_map(BTreeMap::values)
            .map(|trade| {
                json!({
                    "app_id": trade.app_id,
                    "auth_app_id": trade.auth_app_id,
                    "out_trade_no": trade.out_trade_no,
                    "trade_no": trade.trade_no,
                    "trade_status": trade.status.as_str(),
                    "total_amount": money::spell(trade.total),
                    "refunded": money::spell(trade.refunded()),
                    "notify_url": trade.notify_url,
                })
            })
            .collect()
    }
}

fn not_there() -> Refusal {
    Refusal::business("ACQ.TRADE_NOT_EXIST", "交易不存在")
}

/// Makes a trade of the call, or gives the one that the same call has made before: of a QR code,
/// too, which is a trade from then on.
fn open(world: &mut World, call: &Call, status: TradeStatus) -> Result<Trade, Refusal> {
    let out_trade_no = call.required("out_trade_no")?;
    let total = money::parse_or_refuse(&call.required("total_amount")?)?;
    let subject = call.required("subject")?;
    let owned = world.trades.0.get_mut(call.caller.owner());
    if let Some(trade) = owned.and_then(|owned| owned.get_mut(&out_trade_no)) {
        return match trade.status {
            TradeStatus::TradeSuccess | TradeStatus::TradeFinished => {
                Err(Refusal::business("ACQ.TRADE_HAS_SUCCESS", "交易已被支付"))
            }
            TradeStatus::TradeClosed => {
                Err(Refusal::business("ACQ.TRADE_HAS_CLOSE", "交易已经关闭"))
            }
            _ if trade.total != total || trade.subject != subject => Err(Refusal::business(
                "ACQ.CONTEXT_INCONSISTENT",
                "交易信息被篡改",
            )),
            _ => {
                if status == TradeStatus::WaitBuyerPay {
                    trade.status = status;
                }
                Ok(trade.clone())
            }
        };
    }
    let trade = Trade {
        out_trade_no,
        trade_no: ids::trade_no(),
        subject,
        total,
        refunds: Vec::new(),
        status,
        notify_url: call.params.get("notify_url").cloned(),
        charset: call.params.get("charset").cloned(),
        passback_params: call.biz("passback_params"),
        app_id: call.caller.app_id.clone(),
        auth_app_id: call.caller.auth_app_id.clone(),
        seller_id: call.caller.pid.clone(),
        buyer_id: call
            .biz("buyer_id")
            .unwrap_or_else(|| DEFAULT_USER_ID.to_owned()),
        created_at: call.now,
        paid_at: None,
        cancelled: None,
    };
    world.trades.insert(trade.clone());
    Ok(trade)
}

/// `alipay.trade.create`.
pub(super) fn create(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    open(world, call, TradeStatus::WaitBuyerPay).map(|trade| trade.node())
}

/// `alipay.trade.precreate`: a QR code; the trade exists once the buyer has scanned it.
pub(super) fn precreate(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let trade = open(world, call, TradeStatus::Precreated)?;
    Ok(Node::success()
        .with("out_trade_no", trade.out_trade_no)
        .with(
            "qr_code",
            format!("https://qr.alipay.com/bax{}", trade.trade_no),
        ))
}

/// `alipay.trade.pay`: the buyer's payment code has been scanned.
pub(super) fn pay(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    call.required("auth_code")?;
    let mut trade = open(world, call, TradeStatus::WaitBuyerPay)?;
    if trade.total > PASSWORD_ABOVE_FEN {
        return Ok(Node::bare()
            .with("code", "10003")
            .with("msg", "order success pay inprocess")
            .with("trade_no", trade.trade_no)
            .with("out_trade_no", trade.out_trade_no));
    }
    trade.pay(call.now);
    world.outbox.extend(notify::payment(&trade, None));
    let node = trade
        .node()
        .with("total_amount", money::spell(trade.total))
        .with("receipt_amount", money::spell(trade.total))
        .with("gmt_payment", calendar::spell(call.now));
    world.trades.insert(trade);
    Ok(node)
}

/// `alipay.trade.query`.
pub(super) fn query(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let trade = world.trades.of(call)?;
    let node = trade
        .node()
        .with("trade_status", trade.status.as_str())
        .with("total_amount", money::spell(trade.total));
    Ok(match trade.paid_at {
        Some(at) => node.with("send_pay_date", calendar::spell(at)),
        None => node,
    })
}

/// `alipay.trade.refund`: idempotent by `out_request_no`.
pub(super) fn refund(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let amount = money::parse_or_refuse(&call.required("refund_amount")?)?;
    let trade = world.trades.of(call)?;
    let request_no = call.biz("out_request_no");
    if request_no.is_none() && amount != trade.total {
        return Err(Refusal::business(
            "ACQ.INVALID_PARAMETER",
            "部分退款必须传入out_request_no",
        ));
    }
    let out_request_no = request_no.unwrap_or_else(|| trade.out_trade_no.clone());
    let known = trade
        .refunds
        .iter()
        .find(|refund| refund.out_request_no == out_request_no);
    let change = match known.map(|refund| refund.amount) {
        Some(before) if before == amount => "N",
        Some(_) => {
            return Err(Refusal::business(
                "ACQ.DISCORDANT_REPEAT_REQUEST",
                "请求信息不一致",
            ));
        }
        None => {
            book(
                trade,
                Refund {
                    out_request_no,
                    amount,
                    at: call.now,
                },
            )?;
            "Y"
        }
    };
    let node = trade
        .node()
        .with("fund_change", change)
        .with("refund_fee", money::spell(trade.refunded()))
        .with("gmt_refund_pay", calendar::spell(call.now));
    let notice: Option<Notice> = match (change, trade.refunds.last()) {
        ("Y", Some(refund)) => notify::payment(trade, Some(refund)),
        _ => None,
    };
    world.outbox.extend(notice);
    Ok(node)
}

fn book(trade: &mut Trade, refund: Refund) -> Result<(), Refusal> {
    if trade.status != TradeStatus::TradeSuccess {
        return Err(Refusal::business(
            "ACQ.TRADE_STATUS_ERROR",
            "交易状态不合法",
        ));
    }
    if trade.refunded() + refund.amount > trade.total {
        let text = "退款金额大于支付金额";
        return Err(Refusal::business("ACQ.REFUND_AMT_NOT_EQUAL_TOTAL", text));
    }
    trade.book_refund(refund);
    Ok(())
}

/// `alipay.trade.fastpay.refund.query`.
pub(super) fn refund_query(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let out_request_no = call.required("out_request_no")?;
    let trade = world.trades.of(call)?;
    let node = Node::success();
    let Some(refund) = trade
        .refunds
        .iter()
        .find(|refund| refund.out_request_no == out_request_no)
    else {
        // Alipay answers success without a `refund_status`: there was no such refund.
        return Ok(node);
    };
    Ok(node
        .with("trade_no", trade.trade_no.as_str())
        .with("out_trade_no", trade.out_trade_no.as_str())
        .with("out_request_no", out_request_no)
        .with("total_amount", money::spell(trade.total))
        .with("refund_amount", money::spell(refund.amount))
        .with("refund_status", "REFUND_SUCCESS")
        .with("gmt_refund_pay", calendar::spell(refund.at)))
}

/// `alipay.trade.close`.
///
/// Protocol: 统一收单交易关闭接口, 关联异步通知: TRADE_CLOSED is sent unless an app switches it off.
pub(super) fn close(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let trade = world.trades.of(call)?;
    if trade.status != TradeStatus::WaitBuyerPay {
        return Err(Refusal::business(
            "ACQ.TRADE_STATUS_ERROR",
            "交易状态不合法",
        ));
    }
    trade.status = TradeStatus::TradeClosed;
    let (node, notice) = (trade.node(), notify::payment(trade, None));
    world.outbox.extend(notice);
    Ok(node)
}

/// `alipay.trade.cancel`: closes an unpaid trade or a QR code, refunds a paid one, and is fine with none. What
/// was refunded by other means isn't cancelled; again, it does nothing and answers the same.
pub(super) fn cancel(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let trade = match world.trades.scanned_or_not(call) {
        Ok(trade) => trade,
        Err(refusal) if refusal.sub_code == "ACQ.TRADE_NOT_EXIST" => {
            return Ok(Node::success().with("retry_flag", "N"));
        }
        Err(refusal) => return Err(refusal),
    };
    if let Some(action) = trade.cancelled {
        return Ok(cancelled(trade, action));
    }
    if !trade.refunds.is_empty() {
        return Err(Refusal::business(
            "ACQ.REASON_TRADE_REFUND_FEE_ERR",
            "已经退款场景下不能再发起撤销",
        ));
    }
    let action = match trade.status {
        TradeStatus::TradeFinished => {
            return Err(Refusal::business("ACQ.TRADE_HAS_FINISHED", "交易已完结"));
        }
        TradeStatus::TradeSuccess => {
            let out_request_no = format!("{}-cancel", trade.out_trade_no);
            trade.book_refund(Refund {
                out_request_no,
                amount: trade.total,
                at: call.now,
            });
            "refund"
        }
        _ => "close",
    };
    trade.status = TradeStatus::TradeClosed;
    trade.cancelled = Some(action);
    Ok(cancelled(trade, action))
}

fn cancelled(trade: &Trade, action: &str) -> Node {
    trade.node().with("retry_flag", "N").with("action", action)
}
