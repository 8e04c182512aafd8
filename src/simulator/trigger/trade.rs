//! What happens to trades: the buyer pays, the merchant refunds.
use super::{
    super::{
        error::SimulatorError,
        ids, money,
        notify::{self, Notice},
        seed::{DEFAULT_USER_ID, SimulatedApp},
        trades::{Refund, Trade, TradeStatus, Whose},
        world::World,
    },
    TriggerOptions, app_gateway,
};

/// Lets the buyer pay: a waiting trade, a paid one again (another notification of it), or a new one.
pub(super) fn payment(
    world: &mut World,
    app: &SimulatedApp,
    options: &TriggerOptions,
    now: i64,
) -> Result<Notice, SimulatorError> {
    let no = options
        .out_trade_no
        .clone()
        .unwrap_or_else(|| format!("sim{}", ids::digits(12)));
    let whose = whose(app, options);
    if world.trades.find(&no, whose)?.is_none() {
        let trade = new_trade(world, app, (no.clone(), options), now)?;
        world.trades.add(trade)?;
    }
    let unknown = || SimulatorError::TradeUnknown(no.clone());
    let trade = world.trades.find(&no, whose)?.ok_or_else(unknown)?;
    if amount(options)?.is_some_and(|wanted| wanted != trade.total) {
        return Err(SimulatorError::OptionInvalid {
            option: "amount",
            found: options.amount.clone().unwrap_or_default(),
            expected: "the trade's own total_amount, or none: a trade is paid as a whole",
        });
    }
    match trade.status {
        TradeStatus::TradeClosed => {
            let status = trade.status.as_str();
            return Err(SimulatorError::TradeState {
                out_trade_no: no,
                status,
            });
        }
        TradeStatus::Precreated | TradeStatus::WaitBuyerPay => trade.pay(now),
        TradeStatus::TradeSuccess | TradeStatus::TradeFinished => {}
    }
    match options.trade_status.as_deref() {
        None | Some("TRADE_SUCCESS") => {}
        Some("TRADE_FINISHED") => trade.status = TradeStatus::TradeFinished,
        Some(other) => {
            return Err(SimulatorError::OptionInvalid {
                option: "trade_status",
                found: other.to_owned(),
                expected: "TRADE_SUCCESS or TRADE_FINISHED",
            });
        }
    }
    let trade = trade.clone();
    trade_notice((trade, None), app, options)
}

fn new_trade(
    world: &World,
    app: &SimulatedApp,
    (out_trade_no, options): (String, &TriggerOptions),
    now: i64,
) -> Result<Trade, SimulatorError> {
    let merchant = world.merchant(options.auth_app_id.as_deref())?;
    Ok(Trade {
        charset: None,
        out_trade_no,
        trade_no: ids::trade_no(),
        subject: "模拟订单".to_owned(),
        total: amount(options)?.unwrap_or(8888),
        refunds: Vec::new(),
        status: TradeStatus::WaitBuyerPay,
        notify_url: Some(app_gateway(app, options)?),
        passback_params: None,
        app_id: app.app_id.clone(),
        auth_app_id: Some(merchant.auth_app_id.clone()),
        seller_id: merchant.pid.clone(),
        buyer_id: DEFAULT_USER_ID.to_owned(),
        created_at: now,
        paid_at: None,
        cancelled: None,
    })
}

/// Refunds a part of a paid trade: half of what is left, unless an amount is given.
pub(super) fn refund(
    world: &mut World,
    app: &SimulatedApp,
    options: &TriggerOptions,
    now: i64,
) -> Result<Notice, SimulatorError> {
    let whose = whose(app, options);
    let no = options.out_trade_no.clone();
    if no.is_none() && world.trades.paid_last(whose).is_none() {
        let mut trade = new_trade(
            world,
            app,
            (format!("sim{}", ids::digits(12)), options),
            now,
        )?;
        trade.pay(now);
        world.trades.add(trade)?;
    }
    let trade = match &no {
        Some(no) => world.trades.find(no, whose)?,
        None => world.trades.paid_last(whose),
    };
    let trade = trade.ok_or_else(|| SimulatorError::TradeUnknown(no.unwrap_or_default()))?;
    let rest = trade.total - trade.refunded();
    let wanted = amount(options)?.unwrap_or_else(|| (rest / 2).max(1));
    if trade.status != TradeStatus::TradeSuccess || wanted > rest {
        let status = trade.status.as_str();
        return Err(SimulatorError::TradeState {
            out_trade_no: trade.out_trade_no.clone(),
            status,
        });
    }
    let out_request_no = format!("R{}", ids::digits(12));
    let refund = Refund {
        out_request_no,
        amount: wanted,
        at: now,
    };
    trade.book_refund(refund.clone());
    let trade = trade.clone();
    trade_notice((trade, Some(refund)), app, options)
}

/// A trigger is there to send. Where a call has made the trade without `notify_url`, Alipay would tell
/// nobody; the app gateway is told instead, and the record says so.
fn trade_notice(
    (mut trade, refund): (Trade, Option<Refund>),
    app: &SimulatedApp,
    options: &TriggerOptions,
) -> Result<Notice, SimulatorError> {
    let remark = match (&options.url, &trade.notify_url) {
        (None, None) => Some(NO_NOTIFY_URL),
        _ => None,
    };
    if options.url.is_some() || trade.notify_url.is_none() {
        trade.notify_url = Some(app_gateway(app, options)?);
    }
    let notice = notify::payment(&trade, refund.as_ref());
    let unknown = || SimulatorError::TradeUnknown(trade.out_trade_no.clone());
    let notice = notice.ok_or_else(unknown)?;
    Ok(Notice { remark, ..notice })
}

const NO_NOTIFY_URL: &str = "the trade was made by a call without notify_url, and Alipay would tell nobody of it; give \
     that call a notify_url (`?notify_url=/orders/1`)";

fn whose<'a>(app: &'a SimulatedApp, options: &'a TriggerOptions) -> Whose<'a> {
    Whose {
        app_id: &app.app_id,
        auth_app_id: options.auth_app_id.as_deref(),
    }
}

fn amount(options: &TriggerOptions) -> Result<Option<i64>, SimulatorError> {
    let Some(text) = options.amount.as_deref() else {
        return Ok(None);
    };
    money::parse(text)
        .map(Some)
        .ok_or_else(|| SimulatorError::OptionInvalid {
            option: "amount",
            found: text.to_owned(),
            expected: "yuan with at most two decimals, such as 88.88",
        })
}
