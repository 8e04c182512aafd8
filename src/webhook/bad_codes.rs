//! How many codes that are none we have Alipay refuse, and how many states are bound for nothing.
//!
//! The callback is open to the world, isn't signed, and a code can't be judged but by asking Alipay,
//! whose patience with an app is limited. Codes that are good cost nothing here; those that Alipay
//! refuses do, whatever for. Where an app's are used up, nothing is asked for a while: who was wrongly turned
//! away comes again with the same code, which lives for a day. So does a state that is bound to a code that
//! then isn't exchanged, since that is kept for a day, but of an allowance of its own: an Alipay that can't
//! be asked uses that up, and those whose state is bound must go on as soon as it can.
//!
//! Each public network has an eighth of it, so that whoever sends rubbish keeps himself out and nobody
//! else; behind an ingress everybody has the same address, and all that there is. Callbacks without
//! `state` have an allowance of their own, since they are the cheapest to send: used up, they keep
//! nobody from coming back by a link of ours.

use std::net::IpAddr;

use crate::model::id::AppId;
use crate::webhook::allowance::Allowance;
use crate::webhook::shares::Shares;

/// Refused codes without a `state`: 30 a minute.
const UNBOUND: Allowance = Allowance {
    burst: 30,
    interval_ms: 2000,
};
/// Refused codes with one of ours, and as many states bound for nothing: 60 a minute.
const BOUND: Allowance = Allowance {
    burst: 60,
    interval_ms: 1000,
};

/// How a callback says who began the authorisation: as what a bad one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Binding {
    /// By a `state` of ours.
    Bound,
    /// Not at all.
    Unbound,
    /// By one of ours that is bound for nothing: no code is known to be bad by that.
    InVain,
}

/// Whose a code is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    /// Of which app it is to be.
    pub(super) app_id: &'a AppId,
    /// How it came.
    pub(super) binding: Binding,
    /// From which public network, where it came from one.
    pub(super) network: Option<IpAddr>,
}

type Key = (AppId, Binding);

/// What the bad codes of each app, and of each network of its, have used up.
#[derive(Default)]
pub(super) struct BadCodes(Shares<Key>);

impl BadCodes {
    /// Whether Alipay may be asked about one more, or one more state be bound.
    ///
    /// # Errors
    /// After how many seconds it may, unless others come first.
    pub(super) fn may(&self, asker: Asker<'_>, now: i64) -> Result<(), u32> {
        let Self(shares) = self;
        shares.may(asker.allowance(), (&asker.key(), asker.network), now)
    }

    /// Counts one that Alipay refused, or that left a state bound for nothing.
    pub(super) fn count(&self, asker: Asker<'_>, now: i64) {
        let Self(shares) = self;
        shares.count(asker.allowance(), (&asker.key(), asker.network), now);
    }
}

impl Asker<'_> {
    /// The same whose state is bound for nothing.
    pub(super) fn in_vain(self) -> Self {
        Self {
            binding: Binding::InVain,
            ..self
        }
    }

    fn key(&self) -> Key {
        (self.app_id.clone(), self.binding)
    }

    fn allowance(&self) -> Allowance {
        match self.binding {
            Binding::Bound | Binding::InVain => BOUND,
            Binding::Unbound => UNBOUND,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `times` bad codes are asked about at once.
    fn asked(codes: &BadCodes, network: Option<&str>, times: usize) -> usize {
        let app_id = AppId::new("2021000122671080").expect("an id");
        let asker = Asker {
            app_id: &app_id,
            binding: Binding::Bound,
            network: network.map(|network| network.parse().expect("an address")),
        };
        let ask = |_: &usize| {
            let may = codes.may(asker, 0).is_ok();
            if may {
                codes.count(asker, 0);
            }
            may
        };
        (0..times).filter(ask).count()
    }

    #[test]
    fn a_public_network_has_a_share_and_an_ingress_all_there_is() {
        let codes = BadCodes::default();
        assert_eq!(asked(&codes, Some("203.0.113.7"), 100), 8);
        assert_eq!(asked(&codes, Some("203.0.113.8"), 100), 8);
        assert_eq!(asked(&codes, None, 100), 60 - 16);
        assert_eq!(asked(&codes, Some("203.0.113.9"), 100), 0);
    }
}
