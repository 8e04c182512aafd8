//! Who may do what: the rules of a caller, without any look at a request's bytes.
//!
//! Invariants: what no rule names is refused; `*` never reaches the ISV itself nor what hands out
//! credentials; whom a caller may not call for, it can't tell from nobody.

use crate::config::caller::{CallerConfig, MerchantRule};
use crate::delivery::glob;
use crate::delivery::whose::Owner;
use crate::model::selector::Selector;

/// What begins the names of the credential methods, by which merchants' tokens and keys are had.
const CREDENTIAL_METHODS: &str = "alipay.open.auth.";

/// What a caller may do.
#[derive(Debug, Clone)]
pub struct Grant {
    merchants: Vec<MerchantRule>,
    methods: Vec<String>,
    events: bool,
}

/// What is called, as its route names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called<'a> {
    /// By Alipay's name.
    V2(&'a str),
    /// By the path from `/v3/` on, as it came.
    V3(&'a str),
}

impl Grant {
    /// The rules of a `[[caller]]`.
    #[must_use]
    pub fn new(config: &CallerConfig) -> Self {
        Self {
            merchants: config.merchants.clone(),
            methods: config.methods.clone(),
            events: config.events,
        }
    }

    /// Whether a method may be called. A credential method has to be named by a pattern that begins
    /// as these methods do: one that reaches them by its `*` alone doesn't mean them.
    #[must_use]
    pub fn may_call(&self, called: Called<'_>) -> bool {
        let (Called::V2(text) | Called::V3(text)) = called;
        let is_credential = is_credential(called);
        self.methods.iter().any(|pattern| {
            (!is_credential || names_credentials(pattern)) && glob::fits(pattern, text)
        })
    }

    /// Whether events may be claimed.
    #[must_use]
    pub fn may_claim(&self) -> bool {
        self.events
    }

    /// Whether calls may be made for a merchant, and its events be claimed.
    #[must_use]
    pub fn reaches(&self, merchant: &Owner<'_>) -> bool {
        self.merchants.iter().any(|rule| match rule {
            MerchantRule::All => true,
            MerchantRule::Selected(selector) => is_named(merchant, selector),
        })
    }

    /// The same of a merchant that may have names besides these: whether it could be reached.
    #[must_use]
    pub fn could_reach(&self, known: &Owner<'_>) -> bool {
        self.merchants.iter().any(|rule| match rule {
            MerchantRule::All => true,
            MerchantRule::Selected(selector) => could_be_named(known, selector),
        })
    }

    /// Whether calls may be made for the ISV itself.
    #[must_use]
    pub fn reaches_own(&self) -> bool {
        self.merchants
            .contains(&MerchantRule::Selected(Selector::Own))
    }

    /// Whether calls may be made for every merchant, so that there is none to be kept from it.
    #[must_use]
    pub fn reaches_all(&self) -> bool {
        self.merchants.contains(&MerchantRule::All)
    }

    /// Whether its rules name whomever `selector` names, so that it may know whether there is one.
    #[must_use]
    pub fn knows(&self, selector: &Selector) -> bool {
        self.reaches_all()
            || self
                .merchants
                .contains(&MerchantRule::Selected(selector.clone()))
    }
}

/// Whether `selector` names the merchant.
fn is_named(merchant: &Owner<'_>, selector: &Selector) -> bool {
    let has_pid = |digits: &str| merchant.pid.is_some_and(|pid| pid.as_str() == digits);
    match selector {
        Selector::Alias(alias) => merchant.alias == Some(alias),
        Selector::AuthAppId(id) => merchant.auth_app_id == Some(id),
        Selector::Number(number) => {
            merchant.auth_app_id == Some(number) || has_pid(number.as_str())
        }
        Selector::Own => false,
        Selector::Pid(pid) => has_pid(pid.as_str()),
    }
}

/// Whether `selector` could name the merchant, of which only some names are known.
fn could_be_named(known: &Owner<'_>, selector: &Selector) -> bool {
    let is_open = match selector {
        Selector::Alias(_) => known.alias.is_none(),
        Selector::AuthAppId(_) => known.auth_app_id.is_none(),
        Selector::Number(_) => known.auth_app_id.is_none() || known.pid.is_none(),
        Selector::Own => false,
        Selector::Pid(_) => known.pid.is_none(),
    };
    is_open || is_named(known, selector)
}

/// Whether a call hands out merchants' credentials, however it is spelled: nobody knows for sure
/// which spellings Alipay takes for the same.
fn is_credential(called: Called<'_>) -> bool {
    match called {
        Called::V2(method) => folded(method).starts_with(CREDENTIAL_METHODS),
        Called::V3(path) => {
            let name = dotted(path);
            // Names are plain; what is written otherwise where these methods differ from others could
            // be taken for any of them.
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            let is_veiled = name
                .split('.')
                .take(3)
                .any(|segment| !segment.chars().all(is_plain));
            is_veiled || folded(&name).starts_with(CREDENTIAL_METHODS)
        }
    }
}

/// Whether a pattern means credential methods: what stands before its first `*` leads to them.
fn names_credentials(pattern: &str) -> bool {
    let literal = pattern.split('*').next().unwrap_or_default();
    match literal.starts_with("/v3/") {
        true => dotted(literal).starts_with(CREDENTIAL_METHODS),
        false => literal.starts_with(CREDENTIAL_METHODS),
    }
}

/// The v2 name of a v3 path.
fn dotted(path: &str) -> String {
    path.strip_prefix("/v3/").unwrap_or(path).replace('/', ".")
}

/// The name in the one spelling in which all alternative ones meet.
fn folded(name: &str) -> String {
    let name = name.to_ascii_lowercase().replace(['_', '-'], ".");
    let segments = name.split('.').filter(|segment| !segment.is_empty());
    segments.flat_map(|segment| [segment, "."]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(methods: &[&str]) -> Grant {
        Grant {
            merchants: vec![MerchantRule::All],
            methods: methods.iter().map(|&text| text.to_owned()).collect(),
            events: false,
        }
    }

    fn check(methods: &[&str], called: Called<'_>, expected: bool) {
        let found = grant(methods).may_call(called);
        assert_eq!(found, expected, "{methods:?} {called:?}");
    }

    fn of_merchants(rules: &[&str]) -> Grant {
        let rule = |text: &&str| match *text {
            "*" => MerchantRule::All,
            text => MerchantRule::Selected(text.parse().unwrap()),
        };
        Grant {
            merchants: rules.iter().map(rule).collect(),
            methods: Vec::new(),
            events: true,
        }
    }

    #[test]
    fn a_merchant_is_reached_by_each_of_its_names() {
        let (id, pid, alias) = (
            "2021000000001001".parse().unwrap(),
            "2088000000001001".parse().unwrap(),
            "shop".parse().unwrap(),
        );
        let merchant = Owner {
            auth_app_id: Some(&id),
            pid: Some(&pid),
            alias: Some(&alias),
        };
        let nobody = Owner {
            auth_app_id: None,
            pid: None,
            alias: None,
        };
        for (rule, expected) in [
            ("2021000000001001", true),
            ("2088000000001001", true),
            ("app:2021000000001001", true),
            ("pid:2088000000001001", true),
            ("alias:shop", true),
            ("shop", true),
            ("2021000000001002", false),
            ("2088000000001002", false),
            ("app:2021000000001002", false),
            ("pid:2088000000001002", false),
            ("alias:other", false),
            ("self", false),
        ] {
            let grant = of_merchants(&[rule]);
            assert_eq!(grant.reaches(&merchant), expected, "{rule}");
            assert!(!grant.reaches(&nobody), "{rule}");
            assert!(of_merchants(&["self", rule, "alias:z"]).reaches(&merchant) == expected);
        }
        assert!(of_merchants(&["*"]).reaches(&nobody));
        assert!(!of_merchants(&[]).reaches(&merchant));
    }

    #[test]
    fn a_name_that_isnt_known_could_be_any() {
        let id = "2021000000001001".parse().unwrap();
        let pid = "2088000000001001".parse().unwrap();
        let alias = "shop".parse().unwrap();
        let known = |pid, alias| Owner {
            auth_app_id: Some(&id),
            pid,
            alias,
        };
        for (rule, nameless, named) in [
            ("app:2021000000001001", true, true),
            ("app:2021000000001002", false, false),
            ("pid:2088000000001001", true, true),
            ("pid:2088000000001002", true, false),
            ("2088000000001002", true, false),
            ("alias:shop", true, true),
            ("alias:other", true, false),
            ("self", false, false),
            ("*", true, true),
        ] {
            let grant = of_merchants(&[rule]);
            assert_eq!(grant.could_reach(&known(None, None)), nameless, "{rule}");
            let whole = known(Some(&pid), Some(&alias));
            assert_eq!(grant.could_reach(&whole), named, "{rule}");
        }
    }

    #[test]
    fn all_merchants_are_not_the_isv_itself() {
        for (rules, own, all) in [
            (&["*"][..], false, true),
            (&["self"], true, false),
            (&["*", "self"], true, true),
            (&["shop"], false, false),
            (&[], false, false),
        ] {
            let grant = of_merchants(rules);
            assert_eq!(
                (grant.reaches_own(), grant.reaches_all()),
                (own, all),
                "{rules:?}"
            );
        }
    }

    #[test]
    fn what_a_rule_names_may_be_known() {
        let knows = |rules: &[&str], text: &str| of_merchants(rules).knows(&text.parse().unwrap());
        assert!(knows(&["shop"], "shop"));
        assert!(!knows(&["shop"], "other"));
        assert!(knows(&["*"], "other"));
        assert!(!knows(&[], "shop"));
    }

    #[test]
    fn patterns_fit_names_and_paths() {
        use Called::{V2, V3};
        let trade = &["alipay.trade.*"];
        check(trade, V2("alipay.trade.pay"), true);
        check(trade, V2("alipay.tradex.pay"), false);
        check(trade, V2("Alipay.Trade.Pay"), false);
        check(trade, V3("/v3/alipay/trade/pay"), false);
        check(&["/v3/alipay/trade/*"], V3("/v3/alipay/trade/pay"), true);
        check(&["/v3/alipay/trade/*"], V2("alipay.trade.pay"), false);
        check(&["*"], V2("alipay.trade.pay"), true);
        check(&["*"], V3("/v3/alipay/trade/pay"), true);
        check(&[], V2("alipay.trade.pay"), false);
    }

    #[test]
    fn credential_methods_have_to_be_named() {
        use Called::{V2, V3};
        let token = "alipay.open.auth.token.app";
        let path = "/v3/alipay/open/auth/token/app";
        for broad in [
            "*",
            "alipay.*",
            "alipay.open.*",
            "*.token.app",
            "*app",
            "/v3/*",
        ] {
            check(&[broad], V2(token), false);
            check(&[broad], V3(path), false);
        }
        for named in [token, "alipay.open.auth.*", "alipay.open.auth.token.*"] {
            check(&[named], V2(token), true);
            check(&[named], V3(path), false);
        }
        for named in [path, "/v3/alipay/open/auth/*"] {
            check(&[named], V3(path), true);
            check(&[named], V2(token), false);
        }
        check(&["*"], V2("alipay.open.authx.y"), true);
        check(&["*"], V2("alipay.system.oauth.token"), true);
    }

    #[test]
    fn credential_methods_are_known_in_every_spelling() {
        for name in [
            "Alipay.Open.Auth.Token.App",
            "ALIPAY.OPEN.AUTH.TOKEN.APP",
            "alipay.open.auth",
            "alipay.open-auth.token.app",
            "alipay_open_auth.token_app",
        ] {
            check(&["*"], Called::V2(name), false);
        }
        for path in [
            "/v3/alipay.open.auth.token.app",
            "/v3/alipay/open/auth.token/app",
            "/v3/Alipay/OPEN/auth/token/app/query",
            "/v3/alipay/open/auth",
            "/v3/alipay/open/%EF%BD%81uth/token/app",
            "/v3/alipay/open/auth:token/app",
            "/v3/alipay/open/auth+x/token/app",
            "/v3/alipay/open;x/auth/token/app",
        ] {
            check(&["*"], Called::V3(path), false);
        }
    }
}
