//! The query that a browser brings back from a payment page (`return_url`).
//!
//! Its customer holds it, and nothing is escaped in what is signed: a pair can be put into the value of
//! the one before it, or into the name of the one behind it, and the signature still holds. What Alipay puts there is known, so that shows.
//! The merchant's own parameters, which his `return_url` had, may hold anything, and so may returns of
//! other products: of those nothing is sure.

use super::Notification;
use crate::protocol::params::name;

/// What Alipay puts into the return of a payment: numbers, a date, names; an `&` stands in none of them.
///
/// Protocol: alipay.trade.page.pay and alipay.trade.wap.pay, “页面跳转同步参数”.
const PLAIN: [&str; 9] = [
    name::APP_ID,
    name::AUTH_APP_ID,
    name::CHARSET,
    name::METHOD,
    "seller_id",
    name::TIMESTAMP,
    "total_amount",
    "trade_no",
    name::VERSION,
];

impl Notification {
    /// Tells whether it is the return of a payment in which a parameter of Alipay's stands in the value
    /// of another or in a name, or has another in its own.
    #[must_use]
    pub fn is_return_put_together_anew(&self) -> bool {
        let is_payment = |method: &str| {
            let is_trade = method.starts_with("alipay.trade.");
            is_trade && method.ends_with(".return")
        };
        if !self.signed(name::METHOD).any(is_payment) {
            return false;
        }
        let is_hidden =
            |name: &str| self.text(name).is_none() && self.signed(name).next().is_some();
        let swallows = |name: &str| self.text(name).is_some_and(|value| value.contains('&'));
        let swallowed = PLAIN
            .into_iter()
            .any(|name| is_hidden(name) || swallows(name));
        // An `&` may stand in an order's number, what Alipay puts behind one may not.
        let pair = |name: &str| format!("&{name}=");
        let order = self.text(name::OUT_TRADE_NO).unwrap_or_default();
        let mut given = PLAIN.into_iter().chain([name::OUT_TRADE_NO]);
        let is_merged = given.any(|name| order.contains(&pair(name)));
        let mut names = self.params.iter().map(|(name, _)| name);
        let is_split = names.any(|name| name.contains(['&', '=']));
        // Behind it stands, in a parameter of the merchant's, what Alipay may have written of it.
        let is_said_again = |name: &str| {
            let own = self.text(name).and_then(|own| own.split('&').next());
            own.is_some() && own != self.signed(name).last()
        };
        let mut given = PLAIN.into_iter().chain([name::OUT_TRADE_NO]);
        let is_pushed_behind = given.any(is_said_again);
        swallowed || is_merged || is_split || is_pushed_behind || is_hidden(name::OUT_TRADE_NO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::charset::Charset;
    use crate::protocol::params::Params;
    use crate::protocol::sign_content::{EmptyValues, Scheme, notification_without};

    fn check(query: &str, expected: bool) {
        let params = Params::from_form(query.as_bytes(), Charset::Utf8).expect("a form");
        let scheme = Scheme::V1;
        let notification = Notification {
            sign_content: notification_without(&params, scheme, EmptyValues::Dropped, None),
            params,
            charset: Charset::Utf8,
            is_opened: false,
            scheme,
        };
        let found = notification.is_return_put_together_anew();
        assert_eq!(found, expected, "{query}");
    }

    const PAID: &str =
        "app_id=1&auth_app_id=1&charset=utf-8&method=alipay.trade.wap.pay.return&out_trade_no=T";
    const REST: &str =
        "seller_id=2&timestamp=2026-11-25+10%3A20%3A30&total_amount=8.80&trade_no=3&version=1.0";

    #[test]
    fn what_alipay_gave_passes_whatever_the_merchants_own_parameters_hold() {
        for own in [
            "",
            "&next=%2Fpay%3Fa%3D1%26total_amount%3D2%26out_trade_no%3D4",
            "&a=%26&z=x%26y%3D",
            "&b=%26total_amount%3D2",
            "&empty=",
        ] {
            check(&format!("{PAID}&{REST}{own}"), false);
        }
        // An order's number is its merchant's, and what need not be there may be missing.
        check(&format!("{PAID}%261&trade_no=3"), false);
        // Nothing is known of other products.
        check(
            "app_id=1&method=alipay.user.agreement.page.sign.return&z=%26app_id%3D2%26trade_no%3D1",
            false,
        );
        check("app_id=1&timestamp=x%26total_amount%3D1", false);
    }

    #[test]
    fn a_pair_put_into_the_name_behind_it_shows() {
        let first = PAID.replace("out_trade_no=T", "next=%2Fx&out_trade_no=OTHER");
        check(&format!("{first}&out_trade_no%3DT%26page=1&{REST}"), true);
        check(&format!("{first}%26out_trade_no%3DT&{REST}"), true);
        check(&format!("{first}%26total_amount%3D1&{REST}"), true);
        check(&format!("{first}%26page%3D1&{REST}"), false);
    }

    #[test]
    fn all_of_it_put_into_a_value_behind_it_shows() {
        let paid = |own: &str, order: &str, rest: &str| {
            let paid = PAID.replace("out_trade_no=T", &format!("{own}out_trade_no={order}"));
            format!("{paid}&{rest}")
        };
        check(&paid("next=%2Fx&", "T", REST), false);
        check(&paid("next=%2Fx%26out_trade_no%3DOTHER&", "T", REST), false);
        let other = REST.replace("8.80", "9999");
        let hidden = format!(
            "w=1%26out_trade_no%3DT%26{}",
            REST.replace('=', "%3D").replace('&', "%26")
        );
        check(
            &format!("{}&{hidden}", paid("next=%2Fx&", "OTHER", &other)),
            true,
        );
        check(
            &format!("{}&w=1%26total_amount%3D1", paid("", "T", REST)),
            true,
        );
        check(
            &format!("{}&ozone=1%26out_trade_no%3DT", paid("", "OTHER", REST)),
            true,
        );
    }

    #[test]
    fn a_pair_put_into_the_value_before_it_shows() {
        let whole = format!("{PAID}&{REST}&zone=9");
        let pairs: Vec<&str> = whole.split('&').collect();
        for at in 1..pairs.len() {
            let mut merged = pairs.clone();
            let hidden = merged.remove(at).replace('=', "%3D");
            let joined = format!("{}%26{hidden}", merged[at - 1]);
            merged[at - 1] = &joined;
            check(&merged.join("&"), true);
            // Beside one that says nothing, which isn't signed.
            let blank = pairs[at].split('=').next().expect("a name");
            check(&format!("{}&{blank}=", merged.join("&")), true);
        }
    }
}
