//! `simulator`: the Alipay simulator alone.

use std::path::PathBuf;

use clap::Args;
use http::uri::Authority;

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::say;
use crate::cli::signals;
use crate::simulator::{
    self, DEFAULT_APP_ID, FIRST_AUTH_APP_ID, Options, Simulator, WorkspaceListeners,
};

#[derive(Debug, Args)]
pub(crate) struct SimulatorArguments {
    /// Where to write the keys and a config.toml for a sidecar that talks to it
    #[arg(long, value_name = "D")]
    pub(crate) dir: Option<PathBuf>,
    /// Its port
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    pub(crate) listen_base: u16,
    /// Where the sidecar's webhook listens: notifications go there, and the config.toml of --dir
    /// says so
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_parser = host_and_port,
        default_value_t = WorkspaceListeners::default().webhook
    )]
    pub(crate) webhook: String,
}

/// Takes an address to which `http://` and a path can be put.
fn host_and_port(text: &str) -> Result<String, String> {
    let expected = || "expected HOST:PORT, without a scheme or a path".to_owned();
    let authority: Authority = text.parse().map_err(|_| expected())?;
    let has_port = authority.port_u16().is_some_and(|port| port > 0);
    match has_port && !authority.host().is_empty() && !text.contains('@') {
        true => Ok(text.to_owned()),
        false => Err(expected()),
    }
}

pub(crate) fn execute(context: &Context, arguments: &SimulatorArguments) -> Result<(), Failure> {
    let options = Options {
        listen: vec![format!("127.0.0.1:{}", arguments.listen_base)],
        dir: arguments.dir.clone(),
        sidecar: WorkspaceListeners {
            webhook: arguments.webhook.clone(),
            ..WorkspaceListeners::default()
        },
        ..Options::default()
    };
    let ready = |simulator: &Simulator| introduce(simulator, arguments);
    context.serve(async move {
        let ended = signals::ended()?;
        simulator::run(&options, ready, ended)
            .await
            .map_err(anyhow::Error::from)?;
        Ok(())
    })
}

fn introduce(simulator: &Simulator, arguments: &SimulatorArguments) {
    say(format!(
        "simulator  {}   (app {DEFAULT_APP_ID})
notifies   http://{}/alipay/gateway   (--webhook HOST:PORT names another sidecar)",
        simulator.url(),
        arguments.webhook
    ));
    if let Some(kept) = simulator.replaced_config() {
        let kept = kept.display();
        say(format!(
            "replaced   a config.toml that leads elsewhere; it is kept as {kept}"
        ));
    }
    if let Some(dir) = &arguments.dir {
        let dir = dir.display();
        let which = named_by(arguments.listen_base, &simulator.url());
        say(format!(
            "\nA sidecar that talks to it:
  alipay-sidecar -c {dir}/config.toml run --create-store
Its merchants' tokens, as read in Alipay's console:
  alipay-sidecar -c {dir}/config.toml merchant import {dir}/merchants.jsonl
A notification:
  alipay-sidecar trigger {which}plugin-order     (merchant {FIRST_AUTH_APP_ID})"
        ));
    }
}

/// How `trigger` is told which simulator is meant, where it isn't the one it looks for by itself.
fn named_by(port: u16, url: &str) -> String {
    match port {
        DEFAULT_PORT => String::new(),
        _ => format!("--simulator {url} "),
    }
}

/// Where `trigger` looks by itself.
const DEFAULT_PORT: u16 = 2099;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_a_host_and_a_port() {
        for good in ["127.0.0.1:2089", "[::1]:2089", "sidecar.internal:80"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for bad in [
            "http://127.0.0.1:2089",
            "127.0.0.1:2089/alipay/gateway",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:99999",
            ":2089",
            "a@b:2089",
            "",
        ] {
            assert!(host_and_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_simulator_than_the_usual_one_is_named() {
        let url = "http://127.0.0.1:3000";
        assert_eq!(named_by(DEFAULT_PORT, url), "");
        assert_eq!(named_by(3000, url), format!("--simulator {url} "));
        assert_eq!(named_by(0, url), format!("--simulator {url} "));
    }
}
