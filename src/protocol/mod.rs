//! The Alipay protocol as pure functions: bytes in, bytes out.
//!
//! Nothing here opens a socket, reads a file, looks at a clock or keeps global state; time comes
//! in as an argument. The one exception to “no randomness” is written down in [`crypto`] (the
//! blinding of RSA and the generation of keys need the operating system's random numbers).
//! It imports nothing else of this crate.
//!
//! A request is built as [`params::Params`], written down by [`sign_content`], signed by
//! [`key::AppPrivateKey`] and laid out by [`request::SignedParams`]. A reply is cut by
//! [`envelope::Envelope`], what Alipay sends by itself is read by
//! [`notification::UnverifiedNotification`]; the types that can be acted upon only come out of
//! their `verify`. For v3 these are [`authorization`] and [`v3_response`]; [`cert`] and
//! [`encryption`] serve both, [`client_data`] and [`app_result`] check what a front end was given,
//! [`spi`] what Alipay asks; [`signed_answer`] writes what Alipay wants signed back, and
//! [`signed_reply`] what is signed anew for backends. [`diagnosis`] says why something doesn't verify.
//!
//! Protocol: 支付宝开放平台文档, “签名专区” (signing), “异步通知” (asynchronous notifications),
//! “第三方应用授权” (authorisation of third-party applications) and the sources of the official
//! SDKs where the pages are silent.

pub mod app_result;
pub mod authorization;
pub mod cert;
pub mod charset;
pub mod client_data;
pub mod crypto;
pub mod diagnosis;
pub mod disposition;
pub mod encryption;
pub mod envelope;
pub mod error;
mod form;
mod gbk;
pub mod json;
pub mod key;
mod loose;
pub mod multipart;
pub mod notification;
pub mod params;
pub mod request;
pub mod secret;
pub mod sign_content;
pub mod signature;
pub mod signed_answer;
pub mod signed_reply;
pub mod spi;
pub mod timestamp;
pub mod token_reply;
pub mod user_token_reply;
pub mod v3_response;
