//! The event types that are known: what a notification says it is about. Alipay adds others at any
//! time; all of them are delivered, so the list only serves to find mistakes.

use crate::model::event::{MERCHANT_AUTHORIZED, MERCHANT_REVOKED};

/// Every event type that this version knows of.
///
/// Protocol: 异步通知 (`notify_type` of payments), 插件授权通知 and 应用网关消息 (`msg_method` of
/// the platform); then our own.
pub const KNOWN: [&str; 18] = [
    "alipay.fund.trans.order.changed",
    "alipay.merchant.tradecomplain.changed",
    "alipay.mobile.public.message.notify",
    "alipay.open.auth.appauth.cancelled",
    "alipay.open.auth.userauth.cancelled",
    "alipay.open.mini.version.audit.passed",
    "alipay.open.mini.version.audit.rejected",
    "alipay.open.servicemarket.order.notify",
    "dut_user_sign",
    "dut_user_unsign",
    "fund_auth_freeze",
    "fund_auth_unfreeze",
    "open_app_auth_notify",
    "servicemarket_order_notify",
    "trade_status_sync",
    MERCHANT_AUTHORIZED,
    MERCHANT_REVOKED,
    "merchant.suspect",
];
