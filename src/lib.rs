//! A proxy beside any backend that signs Alipay calls for merchants, verifies replies, and takes
//! notifications without losing one.
//!
//! A third-party developer (ISV) acts for many merchants. The sidecar keeps the app's key and each
//! merchant's `app_auth_token`; a backend says *for whom* a call is, and gets a verified reply.
//! The program `alipay-sidecar` is this crate behind three listeners; a host can also hold a
//! [`Sidecar`] itself:
//!
//! ```no_run
//! use alipay_sidecar::{Config, Sidecar, config};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load("config.toml".as_ref(), config::process_environment())?;
//! // Checks everything; starts nothing that listens or delivers.
//! let sidecar = Sidecar::builder(config).build().await?;
//!
//! // A call in process, for the merchant that the operator named `shop`.
//! let reply = sidecar
//!     .request("alipay.trade.query")
//!     .merchant("shop")
//!     .biz_content(r#"{"out_trade_no":"42"}"#)
//!     .send()
//!     .await?;
//! // Alipay signed these very bytes, or there would have been an error.
//! println!("{}", String::from_utf8_lossy(&reply.node()));
//!
//! // The three listeners, deliveries to the backend and upkeep, until Ctrl-C.
//! sidecar.run(async { drop(tokio::signal::ctrl_c().await) }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What a host may hand in (store, signer, clock, metrics registry) stands at [`SidecarBuilder`];
//! `examples/embed.rs` and `examples/mount_in_axum.rs` are whole programs. The protocol alone,
//! without a runtime, is [`protocol`]:
//!
//! ```
//! use alipay_sidecar::protocol::key::AppPrivateKey;
//! use alipay_sidecar::protocol::params::{Params, name};
//! use alipay_sidecar::protocol::sign_content;
//! use alipay_sidecar::protocol::signature::SignType;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = AppPrivateKey::generate(2048)?;
//! let mut params = Params::new();
//! params.push(name::METHOD, "alipay.trade.query")?;
//! params.push(name::APP_ID, "2021000000000001")?;
//! let content = sign_content::v2_request(&params);
//! assert_eq!(content, "app_id=2021000000000001&method=alipay.trade.query");
//! let sign = key.sign(SignType::Rsa2, content.as_bytes())?;
//! key.public_key().verify(SignType::Rsa2, content.as_bytes(), &sign)?;
//! # Ok(())
//! # }
//! ```
//!
//! # The modules, in the order to read them
//!
//! | module | what it is |
//! |---|---|
//! | [`sidecar`] | the whole: wires the parts, binds, runs, drains |
//! | [`protocol`] | Alipay's protocol as pure functions |
//! | [`model`] | the records that are kept, and their ids |
//! | [`config`] | text to typed, checked values |
//! | [`proxy`] | an unsigned request in, a verified reply out |
//! | [`gateway`] | one signed call: build, sign, send, verify |
//! | [`certificates`] | platform certificates that aren't known yet |
//! | [`webhook`] | what Alipay sends: verify, store, acknowledge |
//! | [`delivery`] | from the inbox to the backend |
//! | [`token`] | the life of an `app_auth_token` |
//! | [`store`] | durable state, sealed at rest |
//! | [`admin`] | health, metrics, and the operator's API |
//! | [`install_key`] | signs anew what backends verify |
//! | [`telemetry`] | whose trace something belongs to, and spans for a collector |
//! | [`net`], [`workers`], [`clock`], [`registrar`] | sockets, threads, time and metrics, which know nothing of Alipay |
#![cfg_attr(
    feature = "simulator",
    doc = "| [`simulator`] | an Alipay of our own for development and tests |"
)]
#![forbid(unsafe_code)]

pub mod admin;
pub mod audit;
pub mod certificates;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
mod flight;
pub mod gateway;
mod in_memory;
pub mod install_key;
pub mod model;
pub mod net;
pub mod protocol;
pub mod proxy;
pub mod registrar;
pub mod sidecar;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod store;
pub mod telemetry;
pub mod token;
mod unbroken;
pub mod webhook;
pub mod workers;

pub use config::Config;
pub use sidecar::{Sidecar, SidecarBuilder};
