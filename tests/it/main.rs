//! The tests that go through the front door of a module or of the whole program.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    unreachable_pub,
    reason = "helpers of tests may fail, and nobody outside sees them"
)]

#[cfg(feature = "simulator")]
mod admin;
#[cfg(feature = "simulator")]
mod alerts;
#[cfg(feature = "simulator")]
mod audit;
#[cfg(feature = "cli")]
mod audit_cli;
mod audit_strangers;
#[cfg(feature = "simulator")]
mod auth_redirect;
#[cfg(feature = "simulator")]
mod authorizations;
#[cfg(feature = "simulator")]
mod backends;
#[cfg(feature = "simulator")]
mod background;
#[cfg(feature = "cli")]
mod backlog;
#[cfg(feature = "simulator")]
mod callers;
#[cfg(feature = "simulator")]
mod callers_matrix;
#[cfg(feature = "simulator")]
mod calls;
#[cfg(feature = "cli")]
mod canaries;
#[cfg(feature = "simulator")]
mod certificates;
mod changes;
#[cfg(all(feature = "cli", feature = "simulator"))]
mod check_file;
#[cfg(feature = "simulator")]
mod check_online;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod cli_explain;
#[cfg(feature = "cli")]
mod cli_live;
#[cfg(feature = "cli")]
mod cli_pages;
#[cfg(all(feature = "cli", feature = "simulator"))]
mod cli_quarantine;
mod cli_told;
#[cfg(feature = "simulator")]
mod client_data;
mod config;
mod crash;
#[cfg(feature = "simulator")]
mod dashboard;
#[cfg(feature = "simulator")]
mod delivery;
mod differential;
#[cfg(feature = "simulator")]
mod disk_faults;
#[cfg(feature = "simulator")]
mod docs;
#[cfg(feature = "simulator")]
mod egress;
#[cfg(feature = "simulator")]
mod embedding;
#[cfg(feature = "simulator")]
mod embedding_bugs;
#[cfg(feature = "simulator")]
mod embedding_config;
#[cfg(feature = "simulator")]
mod embedding_end;
#[cfg(feature = "simulator")]
mod embedding_keys;
#[cfg(feature = "simulator")]
mod encryption;
mod error_words;
#[cfg(feature = "simulator")]
mod events;
#[cfg(feature = "simulator")]
mod events_waiting;
#[cfg(feature = "simulator")]
mod examples;
mod explain;
#[cfg(feature = "simulator")]
mod export;
#[cfg(feature = "simulator")]
mod front_limits;
#[cfg(feature = "cli")]
mod full_disk;
#[cfg(feature = "simulator")]
mod key_change;
#[cfg(feature = "cli")]
mod kill;
#[cfg(feature = "simulator")]
mod later_heads;
mod layering;
#[cfg(feature = "cli")]
mod lifecycle;
#[cfg(feature = "simulator")]
mod local_signature;
#[cfg(feature = "simulator")]
mod local_signature_deliveries;
#[cfg(feature = "simulator")]
mod openapi;
#[cfg(feature = "cli")]
mod operator_cli;
#[cfg(feature = "simulator")]
mod overload;
#[cfg(feature = "simulator")]
mod parts;
mod power_cut;
mod printed;
mod properties;
mod protocol;
mod protocol_more;
#[cfg(feature = "simulator")]
mod proxy;
#[cfg(feature = "simulator")]
mod proxy_errors;
#[cfg(feature = "simulator")]
mod proxy_faults;
#[cfg(feature = "simulator")]
mod proxy_gbk;
#[cfg(feature = "simulator")]
mod proxy_merchants;
#[cfg(feature = "simulator")]
mod proxy_uploads;
#[cfg(feature = "simulator")]
mod proxy_v3;
#[cfg(feature = "simulator")]
mod prune;
#[cfg(feature = "simulator")]
mod quarantine;
#[cfg(feature = "simulator")]
mod reload;
#[cfg(feature = "cli")]
mod reload_program;
#[cfg(feature = "simulator")]
mod reserved_parameters;
#[cfg(feature = "cli")]
mod restart;
mod sdk_verdicts;
#[cfg(feature = "simulator")]
mod second_body;
#[cfg(feature = "cli")]
mod secrets;
#[cfg(feature = "simulator")]
mod simulator;
#[cfg(feature = "simulator")]
mod simulator_certificates;
#[cfg(feature = "simulator")]
mod simulator_encryption;
#[cfg(feature = "simulator")]
mod simulator_spi;
#[cfg(feature = "simulator")]
mod simulator_trades;
#[cfg(feature = "simulator")]
mod simulator_uploads;
#[cfg(feature = "simulator")]
mod simulator_v3;
#[cfg(feature = "simulator")]
mod slow_clients;
#[cfg(feature = "simulator")]
mod smuggling;
#[cfg(feature = "simulator")]
mod spi;
#[cfg(feature = "cli")]
mod start_over;
mod state_machine;
mod store;
mod store_care;
#[cfg(feature = "cli")]
mod store_cli;
mod store_damage;
mod store_damage_kept;
mod store_embedded;
#[cfg(feature = "simulator")]
mod store_front;
mod store_quarantine;
#[cfg(feature = "cli")]
mod store_whereabouts;
mod stuck_disk;
#[cfg(feature = "simulator")]
#[allow(
    dead_code,
    reason = "each subject uses a part; webhook and deliveries the rest"
)]
mod support;
mod tampering;
#[cfg(feature = "simulator")]
mod tls;
#[cfg(feature = "simulator")]
mod token;
#[cfg(feature = "simulator")]
mod token_life;
#[cfg(feature = "simulator")]
mod token_life_models;
#[cfg(feature = "simulator")]
mod token_meanwhile;
#[cfg(feature = "simulator")]
mod traces;
#[cfg(feature = "simulator")]
mod unreachable;
#[cfg(feature = "simulator")]
mod user_tokens;
mod vectors;
#[cfg(feature = "simulator")]
mod verify;
#[cfg(feature = "cli")]
mod way_out;
#[cfg(feature = "simulator")]
mod webhook;
