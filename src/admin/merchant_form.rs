//! What a merchant's record is written with, as a line of `merchant import` or under its address.

use crate::admin::json::{AES_KEY, Form, LONG, Member, Object, member};

/// A line of an import.
pub(super) static LINE: Object = Object {
    about: "A merchant under Alipay's own names",
    required: &["app_id", "auth_app_id", "app_auth_token"],
    members: MEMBERS,
};

/// A merchant that the address names. With nothing but an alias it is a known one's new name.
pub(super) static BODY: Object = Object {
    about: "A merchant under Alipay's own names; without a token nothing but an `alias`",
    required: &[],
    members: MEMBERS,
};

const MEMBERS: &[Member] = &[
    member(
        "app_id",
        Form::Id,
        "Our application; as in the address, if that names it",
    ),
    member(
        "auth_app_id",
        Form::Id,
        "The merchant's application, likewise",
    ),
    member(
        "user_id",
        Form::Pattern("^2088[0-9]{12}$"),
        "The merchant's PID",
    ),
    member(
        "alias",
        Form::Alias,
        "The operator's name for it; not `self`, not digits alone",
    ),
    member("ref", Form::Text { longest: 64 }, "The ISV's own tenant id"),
    member("app_auth_token", LONG, "The merchant's token"),
    member("app_refresh_token", LONG, "What buys the next one"),
    member(
        "auth_time",
        Form::Time,
        "When it authorised; without it: now, estimated",
    ),
    member("encrypt_key", AES_KEY, "The merchant's AES key"),
    member(
        "auth_time_estimated",
        Form::Flag,
        "Whether `auth_time` is ours",
    ),
    member(
        "encrypt_key_fetched",
        Form::Flag,
        "Whether Alipay gave `encrypt_key`",
    ),
    member("previous_app_auth_token", LONG, "The token before it"),
    member(
        "previous_app_refresh_token",
        LONG,
        "What bought the one after that",
    ),
    member(
        "doubt",
        Form::Word(&[
            "new-token-refused",
            "refresh-token-refused",
            "token-refused",
        ]),
        "Which token Alipay refused",
    ),
    member(
        "refresh_refused",
        Form::Flag,
        "Whether the refresh token is spent",
    ),
    member("revoked_at", Form::Time, "When it cancelled"),
    member(
        "revoked_at_estimated",
        Form::Flag,
        "Whether `revoked_at` is only by when",
    ),
    member(
        "stated_expiry",
        Form::Time,
        "When the token ends, as Alipay says",
    ),
    member("suspect_at", Form::Time, "When it became suspect"),
];
