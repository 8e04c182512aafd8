//! Runs the Alipay simulator alone: `simulator [--dir D] [--listen A]… [--proxy A] [--time-scale F]
//! [--mode key|certificate] [--encrypt-key BASE64]`.
use std::path::PathBuf;

use alipay_sidecar::simulator::{self, AppMode, Options};
use anyhow::{Context as _, bail};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = options(std::env::args().skip(1))?;
    let ready = |simulator: &simulator::Simulator| {
        eprintln!("simulator ready on {}", simulator.url());
    };
    let shutdown = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(simulator::run(&options, ready, shutdown).await?)
}

fn options(mut args: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options::default();
    let mut listen = Vec::new();
    while let Some(flag) = args.next() {
        let value = args
            .next()
            .with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--dir" => options.dir = Some(PathBuf::from(value)),
            "--proxy" => options.sidecar.proxy = value,
            "--encrypt-key" => options.encrypt_key = Some(value),
            "--mode" => options.mode = mode(&value)?,
            "--listen" => listen.push(value),
            "--time-scale" => options.time_scale = value.parse()?,
            _ => bail!("unknown flag {flag}"),
        }
    }
    if !listen.is_empty() {
        options.listen = listen;
    }
    Ok(options)
}

fn mode(name: &str) -> anyhow::Result<AppMode> {
    match name {
        "certificate" => Ok(AppMode::Certificate),
        "key" => Ok(AppMode::Key),
        _ => bail!("unknown mode {name}; there are certificate and key"),
    }
}
