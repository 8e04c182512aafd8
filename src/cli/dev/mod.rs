//! `dev`: everything on loopback with throw-away keys against the built-in simulator.

use anyhow::Context as _;
use clap::Args;
use clap::builder::RangedI64ValueParser;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::{complain, say};
use crate::cli::{logging, signals};
use crate::config::telemetry::{LogFormat, TelemetryConfig};
use crate::simulator::{DEFAULT_APP_ID, FIRST_AUTH_APP_ID, Fault, FaultKind};

mod backend;
mod tour;
mod world;

use tour::Tour;
use world::World;

#[derive(Debug, Args)]
pub(crate) struct DevArguments {
    /// Walk through one call, one authorisation, one user token and one notification
    #[arg(long)]
    pub(crate) tour: bool,
    /// A fault for the simulator to make: reset, slow, tampered, tampered-notification, unsigned …
    #[arg(long, value_name = "NAME")]
    pub(crate) fault: Option<String>,
    /// The first port: proxy; +1 webhook, +2 admin, +11 simulator; 0: whatever is free
    #[arg(long, value_name = "PORT", default_value_t = 2088, value_parser = base())]
    pub(crate) listen_base: u16,
}

/// A port that has room above it for all the others.
fn base() -> RangedI64ValueParser<u16> {
    let highest = u16::MAX.saturating_sub(world::HIGHEST);
    RangedI64ValueParser::new().range(..=i64::from(highest))
}

pub(crate) fn execute(context: &Context, arguments: &DevArguments) -> Result<(), Failure> {
    let fault = match &arguments.fault {
        Some(name) => {
            Some(FaultKind::from_name(name).map_err(|error| Failure::Usage(error.to_string()))?)
        }
        None => None,
    };
    let _log = logging::start(&log_settings(arguments))?;
    context.serve(async move {
        let mut ended = ended()?;
        let world = tokio::select! {
            world = World::start(arguments.listen_base) => world?,
            () = &mut ended => return broken_off(arguments),
        };
        if let Some(kind) = fault {
            world.simulator.fault(Fault::once(kind));
        }
        let lived = async {
            if arguments.tour {
                walk(&world).await
            } else {
                stay(&world).await
            }
        };
        let result = tokio::select! {
            result = lived => result,
            () = ended => broken_off(arguments),
        };
        world.stop().await;
        result
    })
}

/// Ends at the first signal that ends the program, SIGHUP among them: the terminal that everything
/// is for has gone. Under `nohup` it is to stay, though.
fn ended() -> anyhow::Result<BoxFuture<'static, ()>> {
    if ignores_hang_up() {
        return Ok(signals::ended()?.boxed());
    }
    let (ended, hung_up) = signals::heard()?;
    let either = async move {
        tokio::select! {
            () = ended => {}
            () = hung_up.notified() => {}
        }
    };
    Ok(either.boxed())
}

/// Whether the process was started with SIGHUP ignored, as Linux tells it: the lowest bit.
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 == 1)
}

/// A tour that wasn't walked to its end has verified nothing; whoever stays is to end so.
fn broken_off(arguments: &DevArguments) -> Result<(), Failure> {
    match arguments.tour {
        true => Err(anyhow::anyhow!("the tour was ended by a signal").into()),
        false => Ok(()),
    }
}

/// The tour speaks for itself; without it the log tells what happens.
fn log_settings(arguments: &DevArguments) -> TelemetryConfig {
    let level = if arguments.tour { "error" } else { "info" };
    TelemetryConfig {
        log: level.to_owned(),
        log_format: LogFormat::Human,
        ..TelemetryConfig::default()
    }
}

async fn walk(world: &World) -> Result<(), Failure> {
    say("alipay-sidecar: one merchant, one user, one payment, on loopback, with throw-away keys");
    let mut tour = Tour::new(world).context("the tour")?;
    tour.walk().await.map_err(|error| {
        complain(format!("   ✗ {error:#}"));
        anyhow::anyhow!("the tour ended at a step that was not verified").into()
    })
}

async fn stay(world: &World) -> Result<(), Failure> {
    say(introduction(world));
    while let Some(delivered) = world.backend.next_ever().await {
        let kind = delivered.header("alipay-event-type");
        let id = delivered.header("alipay-event-id");
        say(format!("backend: {kind} delivered as event {id}"));
    }
    Ok(())
}

/// What to type first.
fn introduction(world: &World) -> String {
    let World {
        proxy,
        webhook,
        admin,
        simulator,
        ..
    } = world;
    let simulator = simulator.url();
    let token = world.admin_token();
    format!(
        "proxy      {proxy}
webhook    {webhook}
admin      {admin}   (token in {})
simulator  {simulator}   (app {DEFAULT_APP_ID})

Let merchant {FIRST_AUTH_APP_ID} order the plugin:
  curl -d '{{\"auth_app_id\":\"{FIRST_AUTH_APP_ID}\"}}' {simulator}/simulator/trigger/plugin-order
then call Alipay for it:
  curl -H 'Alipay-Merchant: {FIRST_AUTH_APP_ID}' -d '{{\"out_trade_no\":\"1\",\"total_amount\":\"8.80\",\"subject\":\"tea\"}}' \\
    '{proxy}/v2/alipay.trade.create?notify_url=/orders/1'
and let the user pay:
  curl -d '{{\"out_trade_no\":\"1\"}}' {simulator}/simulator/trigger/payment

The other verbs reach it, too:
  alipay-sidecar -c {} inbox list

Everything goes when this ends (Ctrl-C).",
        token.display(),
        world.config().display()
    )
}
