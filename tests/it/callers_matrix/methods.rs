//! The ways to name a method, and what becomes of each.

/// How a method is named.
#[derive(Clone, Copy, Debug)]
pub enum Named {
    /// `/v2/…`
    V2(&'static str),
    /// `/gateway.do?…`
    Query(&'static str),
    /// `/gateway.do` with a form.
    Form(&'static str),
    /// `POST /v3/…`
    V3(&'static str),
    /// `GET /v3/…`
    Get(&'static str),
}

/// What becomes of a call by those who may make it.
#[derive(Clone, Copy, Debug)]
pub enum Becomes {
    /// It arrives.
    Sent,
    /// It arrives as the ISV itself.
    SentAsOwn,
    /// It is signed and not sent.
    Signed,
    /// It would be signed, which this method never is.
    NeverSigned,
    /// It is refused to every caller, whoever is named.
    Refused(&'static str),
    /// The same; and it can't be read far enough to tell who signed it.
    Unreadable(&'static str),
}

use Becomes::{NeverSigned, Refused, Sent, SentAsOwn, Signed, Unreadable};
use Named::{Form, Get, Query, V2, V3};

/// How many of the [`METHODS`], from the first, stand for all: one of each route and kind.
pub const PLAIN_METHODS: usize = 7;

/// The methods, whose rules allow each, and what becomes of it.
pub const METHODS: [(Named, &str, Becomes); 39] = [
    (
        V2("alipay.trade.query"),
        "all shop keys sdk peer watched",
        Sent,
    ),
    (
        V2("alipay.trade.pay/order-string"),
        "all shop sdk peer",
        Signed,
    ),
    (V2("alipay.open.auth.token.app"), "keys", SentAsOwn),
    (
        Query("method=alipay.trade.query"),
        "all shop keys sdk peer watched",
        Sent,
    ),
    (
        Form("m%65thod=alipay.open.auth.token.app"),
        "keys",
        SentAsOwn,
    ),
    (V3("alipay/trade/query"), "all shop sdk peer", Sent),
    (V3("alipay/open/auth/token/app"), "keys", SentAsOwn),
    (V2("alipay.trade.pay"), "all shop sdk peer", Sent),
    (
        V2("alipay.trade.page.pay/page-url"),
        "all shop sdk peer",
        Signed,
    ),
    (
        V2("alipay.trade.page.pay/page-form"),
        "all shop sdk peer",
        Signed,
    ),
    (V2("alipay.system.oauth.token"), "all sdk peer", Sent),
    (V2("Alipay.Trade.Query"), "all sdk", Sent),
    (V2("alipay.tradex.query"), "all sdk peer", Sent),
    (
        V2("alipay.open.auth.token.app/order-string"),
        "keys",
        NeverSigned,
    ),
    (V2("alipay.open.auth.token.app.query"), "", Sent),
    (V2("Alipay.open.auth.token.app"), "", Sent),
    (V2("ALIPAY.OPEN.AUTH.TOKEN.APP"), "", Sent),
    (
        V2("alipay.open.auth.token.app."),
        "",
        Refused("method-invalid"),
    ),
    (
        V2("alipay.open.auth.token.app%20"),
        "",
        Refused("method-invalid"),
    ),
    (
        V2("alipay%2Eopen%2Eauth%2Etoken%2Eapp"),
        "",
        Refused("method-invalid"),
    ),
    (
        V2("alipay.open.auth.token.app/"),
        "",
        Refused("route-unknown"),
    ),
    (
        Form("method=alipay.trade.query"),
        "all shop keys sdk peer watched",
        Sent,
    ),
    (
        Form("method=alipay%2Etrade%2Epay"),
        "all shop sdk peer",
        Sent,
    ),
    (
        Query("METHOD=alipay.open.auth.token.app"),
        "",
        Refused("method-required"),
    ),
    (
        Query("method=alipay.open.auth.token.app"),
        "keys",
        SentAsOwn,
    ),
    (Form("method=alipay.open.auth.app.aes.get"), "", Sent),
    (
        Query("method=alipay.open.auth.token.app+"),
        "",
        Refused("method-invalid"),
    ),
    (
        Form("method=%EF%BD%81lipay.open.auth.token.app"),
        "",
        Refused("method-invalid"),
    ),
    (
        Form("method=alipay.trade.query&Method=alipay.open.auth.token.app"),
        "",
        Unreadable("parameter-duplicate"),
    ),
    (
        V3("alipay/trade/pay?a=alipay/open/auth"),
        "all shop sdk peer",
        Sent,
    ),
    (V3("Alipay/trade/pay"), "all sdk", Sent),
    (Get("alipay/open/auth/token/app/query"), "keys", Sent),
    (V3("Alipay/open/auth/token/app"), "", Sent),
    (V3("alipay.open.auth.token.app"), "", Sent),
    (V3("alipay/open/%EF%BD%81uth/token/app"), "", Sent),
    (
        V3("alipay/open/%61uth/token/app"),
        "",
        Unreadable("parameter-invalid"),
    ),
    (
        V3("alipay/open//auth/token/app"),
        "",
        Unreadable("parameter-invalid"),
    ),
    (
        V3("alipay/open/auth/token/app/"),
        "",
        Unreadable("parameter-invalid"),
    ),
    (
        V3("alipay/trade/../open/auth/token/app"),
        "",
        Unreadable("parameter-invalid"),
    ),
];
