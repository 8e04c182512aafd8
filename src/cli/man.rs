//! `man`: the manual pages, made from the arguments themselves.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::failure::Failure;
use crate::cli::{described, examples, output};

#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Where to write one page for the program and one for each verb; without it the program's page
    /// goes to standard output
    #[arg(long, value_name = "D")]
    dir: Option<PathBuf>,
}

pub(crate) fn execute(arguments: &ManArguments) -> Result<(), Failure> {
    let mut command = described().disable_help_subcommand(true);
    command.build();
    let Some(directory) = &arguments.dir else {
        let page = page(&command).map_err(anyhow::Error::from)?;
        output::say_bytes(&page);
        return Ok(());
    };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("{} can't be made", directory.display()))?;
    for command in all(&command) {
        let path = directory.join(format!("{}.{SECTION}", title(command)));
        let page = page(command).map_err(anyhow::Error::from)?;
        std::fs::write(&path, page)
            .with_context(|| format!("{} can't be written", path.display()))?;
        output::say(path.display());
    }
    Ok(())
}

/// The command itself, and all below it.
fn all(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().flat_map(all);
    std::iter::once(command).chain(below).collect()
}

/// The name of a page, such as `alipay-sidecar-inbox-list`.
fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or(PROGRAM)
}

/// One page. What all verbs share stands on the program's alone, which the others refer to.
fn page(command: &Command) -> io::Result<Vec<u8>> {
    let source = format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone())
        .section(SECTION)
        .source(source)
        .manual("Alipay sidecar");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    usage(command).to_writer(&mut page)?;
    if title(command) == PROGRAM {
        shared().to_writer(&mut page)?;
    } else {
        see_also(command).to_writer(&mut page)?;
    }
    page.flush()?;
    Ok(page)
}

/// How it is used, line by line as it is typed.
fn usage(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    let name = command.get_bin_name().unwrap_or_default();
    for line in examples::of(name.strip_prefix(PROGRAM).unwrap_or_default().trim_start()) {
        roff.control("PP", []);
        roff.control("nf", []);
        roff.text([roman(line)]);
        roff.control("fi", []);
    }
    roff
}

/// Exit codes, variables and files.
fn shared() -> Roff {
    let mut roff = Roff::new();
    for (heading, entries) in [
        ("EXIT STATUS", EXIT_STATUS),
        ("ENVIRONMENT", ENVIRONMENT),
        ("FILES", FILES),
    ] {
        roff.control("SH", [heading]);
        for (tag, text) in entries {
            roff.control("TP", []);
            roff.text([bold(*tag)]);
            roff.text([roman(*text)]);
        }
    }
    roff
}

fn see_also(command: &Command) -> Roff {
    let mut above = title(command)
        .rsplit_once('-')
        .map_or(PROGRAM, |(above, _)| above);
    // Only where a page of that name is: a verb may have a hyphen of its own.
    if !all_titles().contains(&above.to_owned()) {
        above = PROGRAM;
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let mut line = vec![bold(PROGRAM), roman(format!("({SECTION})"))];
    if above != PROGRAM {
        line.extend([roman(", "), bold(above), roman(format!("({SECTION})"))]);
    }
    roff.text(line);
    roff
}

fn all_titles() -> Vec<String> {
    let mut command = described().disable_help_subcommand(true);
    command.build();
    let titles = all(&command).into_iter().map(title);
    titles.map(str::to_owned).collect()
}

const PROGRAM: &str = "alipay-sidecar";
/// User commands.
const SECTION: &str = "1";

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Done; a clean stop by SIGTERM or SIGINT, too."),
    (
        "1",
        "It failed, or what was to be verified isn't genuine; standard error says why.",
    ),
    ("2", "The arguments are wrong."),
    (
        "78",
        "The configuration is wrong; standard error names file, line and key of every fault.",
    ),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "ALIPAY_SIDECAR_<SECTION>__<KEY>",
        "Stands over the key of that section of the configuration file.",
    ),
    (
        "CREDENTIALS_DIRECTORY",
        "Where secrets are that the configuration names as cred:NAME; systemd sets it.",
    ),
    (
        "NOTIFY_SOCKET",
        "Whom run tells that it is ready; a service manager sets it.",
    ),
    (
        "WATCHDOG_USEC",
        "Within which time run tells that it is alive; a service manager sets it.",
    ),
];

const FILES: &[(&str, &str)] = &[
    (
        "config.toml",
        "The configuration, in the working directory unless --config names another.",
    ),
    (
        "data/sidecar.redb",
        "The store, where store.url doesn't name another; relative to the configuration.",
    ),
    ("data/store.key", "What opens the store."),
    (
        "admin.token",
        "Beside the store: the bearer token of a running sidecar that isn't configured with one.",
    ),
];
