//! The command line: arguments here, one file per verb.
//!
//! Exit codes (contract §7): 0 done, 1 failed, 2 wrong usage, 78 wrong configuration.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgMatches, CommandFactory, FromArgMatches as _, Parser, Subcommand};

use crate::cli::context::Context;
use crate::cli::failure::Failure;

mod activation;
mod admin_client;
mod app;
mod app_subscribe;
mod audit;
mod backend;
mod call;
mod check;
mod check_certificates;
mod check_keys;
mod check_online;
mod check_running;
mod check_store;
mod completions;
mod configuration_file;
mod context;
mod dev;
mod examples;
mod exchange;
mod failure;
mod files;
mod health;
mod http_text;
mod inbox;
mod init;
mod input;
mod log_json;
mod log_lines;
mod logging;
mod man;
mod merchant;
mod merchant_export;
mod merchant_import;
mod merchant_link;
mod merchant_verify;
mod output;
mod pace;
mod pinned;
mod privacy;
mod problem;
mod progress;
mod records;
mod run;
mod sealed_file;
mod service_manager;
mod sign;
mod signals;
mod simulator;
mod store;
mod taken_variables;
mod token;
mod trail;
mod trigger;
mod verify;
mod verify_keys;
mod version;

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done; a clean stop by a signal, too.
    Done,
    /// It failed, and standard error says why.
    Failed,
    /// The configuration is wrong, and standard error says where.
    Misconfigured,
    /// The arguments are wrong.
    Usage,
}

impl From<Outcome> for std::process::ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::Done => 0,
            Outcome::Failed => 1,
            Outcome::Usage => 2,
            // EX_CONFIG of sysexits.h.
            Outcome::Misconfigured => 78,
        })
    }
}

/// Signs Alipay calls for merchants, verifies replies, takes notifications.
#[derive(Debug, Parser)]
#[command(name = "alipay-sidecar", version)]
struct Arguments {
    /// The configuration file
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        default_value = "config.toml"
    )]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Credentials of the ISV's own applications
    #[command(subcommand)]
    App(app::AppVerb),
    /// The audit log
    #[command(subcommand)]
    Audit(audit::AuditVerb),
    /// One call through a running sidecar
    Call(call::CallArguments),
    /// Validate the configuration, the keys against each other, the store and the clock
    Check(check::CheckArguments),
    /// Write a shell's completions of verbs and options to standard output
    Completions(completions::CompletionsArguments),
    /// Everything on loopback with throw-away keys against the built-in simulator
    Dev(dev::DevArguments),
    /// Ask a running sidecar whether it is ready
    Health(health::HealthArguments),
    /// Notifications and their deliveries
    #[command(subcommand)]
    Inbox(inbox::InboxVerb),
    /// Write a configuration, keys and an empty store
    Init(init::InitArguments),
    /// Write the manual pages
    Man(man::ManArguments),
    /// Merchants: the triples PID – auth_app_id – app_auth_token
    #[command(subcommand)]
    Merchant(merchant::MerchantVerb),
    /// Serve
    ///
    /// SIGHUP puts the configuration in force anew; a wrong one changes nothing, and the log says why.
    /// SIGTERM and SIGINT end it, once what is under way has ended.
    Run(run::RunArguments),
    /// Sign parameters offline, and show what was signed
    Sign(sign::SignArguments),
    /// The Alipay simulator alone
    Simulator(simulator::SimulatorArguments),
    /// The store: create, back up, restore, look after
    #[command(subcommand)]
    Store(store::StoreVerb),
    /// Merchants' app_auth_tokens by hand
    #[command(subcommand)]
    Token(token::TokenVerb),
    /// Send a signed test notification from the simulator
    Trigger(trigger::TriggerArguments),
    /// Verify a reply, a notification or a request offline, and say why it doesn't hold
    Verify(verify::VerifyArguments),
    /// Say which version this is
    Version(version::VersionArguments),
}

/// The whole command line, its examples with it, for whoever reads or describes it.
fn described() -> clap::Command {
    examples::told(without_idle_options(Arguments::command()))
}

/// Verbs that read no configuration take `-c` all the same, as every verb does, and don't offer it.
fn without_idle_options(command: clap::Command) -> clap::Command {
    let idle = |config: &clap::Arg| config.clone().hide(true);
    let config = command.get_arguments().find(|arg| arg.get_id() == "config");
    let Some(config) = config.map(idle) else {
        return command;
    };
    let hide = |command: clap::Command, verb| {
        command.mut_subcommand(verb, |verb| verb.arg(config.clone()))
    };
    let command = IDLE.into_iter().fold(command, hide);
    command.mut_subcommand("merchant", |merchant| hide(merchant, "open-export"))
}

/// The verbs that read no configuration.
const IDLE: [&str; 7] = [
    "completions",
    "dev",
    "init",
    "man",
    "simulator",
    "trigger",
    "version",
];

/// Whether the verb was given `--json`.
fn asks_for_json(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some((_, below)) => asks_for_json(below),
        None => matches!(matches.try_get_one::<bool>("json"), Ok(Some(true))),
    }
}

/// Does what `arguments` (with the program's name first) say, and tells the user how it went.
///
/// It is the whole program's: it makes the process private (no core dumps, no debugger of the same
/// user), and tells of panics by itself.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Outcome {
    privacy::keep_memory_private();
    privacy::tell_panics_without_data();
    let given: Vec<OsString> = arguments.into_iter().collect();
    let read = described()
        .try_get_matches_from(&given)
        .and_then(|matches| {
            let arguments = Arguments::from_arg_matches(&matches)?;
            Ok((arguments, asks_for_json(&matches)))
        });
    let (arguments, json) = match read {
        Ok(read) => read,
        Err(error) => return not_understood(&given, &error),
    };
    let context = Context::new(arguments.config);
    match execute(&context, arguments.verb).and_then(|()| output::finish()) {
        Ok(()) => Outcome::Done,
        Err(failure) => {
            if json && !failure.is_told() {
                tell_json(&problem::of(&failure));
            }
            output::complain(&failure);
            failure.outcome()
        }
    }
}

/// Help was asked for, or the arguments are wrong.
fn not_understood(given: &[OsString], error: &clap::Error) -> Outcome {
    // Nobody is left to be told if even standard error is closed.
    let _ = error.print();
    if error.exit_code() == 0 {
        return Outcome::Done;
    }
    if given.iter().any(|argument| argument == "--json") {
        let text = error.to_string();
        tell_json(&problem::usage(text.trim_end()));
    }
    Outcome::Usage
}

fn tell_json(problem: &serde_json::Value) {
    // Texts, numbers and flags always serialise.
    let _ = output::say_json(problem);
}

fn execute(context: &Context, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::App(verb) => context.block_on(app::execute(context, verb)),
        Verb::Audit(verb) => context.block_on(audit::execute(context, verb)),
        Verb::Call(arguments) => context.block_on(call::execute(context, arguments)),
        Verb::Check(arguments) => context.block_on(check::execute(context, &arguments)),
        Verb::Completions(arguments) => completions::execute(&arguments),
        Verb::Dev(arguments) => dev::execute(context, &arguments),
        Verb::Health(arguments) => context.block_on(health::execute(context, &arguments)),
        Verb::Inbox(verb) => context.block_on(inbox::execute(context, verb)),
        Verb::Init(arguments) => init::execute(&arguments),
        Verb::Man(arguments) => man::execute(&arguments),
        Verb::Merchant(verb) => context.block_on(merchant::execute(context, verb)),
        Verb::Run(arguments) => run::execute(context, &arguments),
        Verb::Sign(arguments) => sign::execute(context, &arguments),
        Verb::Simulator(arguments) => simulator::execute(context, &arguments),
        Verb::Store(verb) => context.block_on(store::execute(context, verb)),
        Verb::Token(verb) => context.block_on(token::execute(context, verb)),
        Verb::Trigger(arguments) => context.block_on(trigger::execute(&arguments)),
        Verb::Verify(arguments) => verify::execute(context, &arguments),
        Verb::Version(arguments) => version::execute(&arguments),
    }
}
