//! Why something doesn't verify: the cause, found by taking known mistakes back until the signature
//! holds.
//!
//! A signature gives back, under the key that made it, the digest of what was signed. So the key is
//! judged first and alone; then whatever the content may have been is tried at the price of a hash:
//! the readings that SDKs differ in, escapes, charsets, JSON written anew, parameters added or
//! dropped, and pairs of the cheap ones, within bounds. What can't be found by trying is found by
//! looking at the outline: a text cut short, a key of another kind, another method's root.
//!
//! Nothing here decides what is accepted: that is `verify` of [`envelope`](super::envelope),
//! [`notification`](super::notification) and [`v3_response`](super::v3_response), which are asked
//! first. [`gateway_difference`] compares our sign content with the one that Alipay says it has
//! checked.
//!
//! Causes and [`Explanation`]s print without values, so that they can be logged.

mod bodies;
mod cause;
mod clock;
mod explanation;
mod fields;
mod form_candidates;
mod forms;
mod gateway;
mod gateway_text;
mod html;
mod json_order;
mod json_text;
mod keys;
mod known_names;
mod outlines;
mod repairs;
mod replies;
mod seal;
mod search;
mod sign_text;
mod v3;
mod visible;
mod work;

pub use self::{
    cause::{
        Cause, ClockCause, KeyCause, Newline, ParamsCause, ReplyCause, SignCause, TextCause,
        V3Cause,
    },
    explanation::{Explanation, Seal, Subject},
    forms::{notification, notification_in, request},
    gateway::{Difference, GatewayVerdict, gateway_difference},
    keys::{Keys, label_mix_up, private_key},
    replies::reply,
    v3::{V3Message, v3_request, v3_response},
    visible::visible,
};
