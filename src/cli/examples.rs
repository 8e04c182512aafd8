//! How each verb is used: what its help and its manual page show.

use clap::Command;

/// What stands before each example.
const PROGRAM: &str = "alipay-sidecar";

/// `command` with the examples of every verb behind its long help.
pub(super) fn told(command: Command) -> Command {
    below(command, "")
}

fn below(mut command: Command, path: &str) -> Command {
    let verbs = command
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned());
    for verb in verbs.collect::<Vec<_>>() {
        let path = format!("{path} {verb}").trim_start().to_owned();
        command = command.mut_subcommand(verb, |verb| below(verb, &path));
    }
    let lines: Vec<_> = of(path).iter().map(|line| format!("\n  {line}")).collect();
    let before = command.get_after_help().map(|text| format!("{text}\n\n"));
    command.after_long_help(format!(
        "{}Examples:{}",
        before.unwrap_or_default(),
        lines.concat()
    ))
}

/// The examples of the verb at `path`, such as `inbox list`; of what only holds verbs, those of all
/// of them.
pub(super) fn of(path: &str) -> Vec<String> {
    let whole = |line: &&str| format!("{PROGRAM} {line}");
    let named = EXAMPLES.iter().find(|(of, _)| *of == path);
    if let Some((_, lines)) = named {
        return lines.iter().map(whole).collect();
    }
    let start = format!("{path} ");
    let held = EXAMPLES.iter().filter(|(of, _)| of.starts_with(&start));
    held.flat_map(|(_, lines)| lines.iter().map(whole))
        .collect()
}

/// By the words that name a verb; the first are the program's own.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "init --dir /etc/alipay-sidecar",
            "dev --tour",
            "-c /etc/alipay-sidecar/config.toml check --online",
            "-c /etc/alipay-sidecar/config.toml run",
        ],
    ),
    (
        "app add",
        &[
            "app add --app-id 2021000000000001 --private-key file:app_private_key.pem --alipay-public-key file:alipay_public_key.pem",
            "app add --app-id 2021000000000001 --private-key file:app_private_key.pem --app-cert file:appCertPublicKey.crt --alipay-cert file:alipayCertPublicKey_RSA2.crt --alipay-root-cert file:alipayRootCert.crt",
        ],
    ),
    ("app list", &["app list --json"]),
    ("app remove", &["app remove 2021000000000001"]),
    ("app show", &["app show 2021000000000001"]),
    (
        "app subscribe",
        &["app subscribe", "app subscribe --all --users --rate 5"],
    ),
    (
        "audit verify",
        &["audit verify", "audit verify audit.1.jsonl audit.jsonl"],
    ),
    (
        "call",
        &[
            "call alipay.trade.query --merchant 2088000000001001 --biz '{\"out_trade_no\":\"42\"}'",
            "call alipay.system.oauth.token --merchant shop --param grant_type=authorization_code --param code=4b203fe6c11548bcabd8da5bb087a83b",
            "call alipay.trade.refund --merchant shop --biz @refund.json --token file:shop.token",
        ],
    ),
    (
        "check",
        &[
            "check",
            "-c /etc/alipay-sidecar/config.toml check --online --json",
        ],
    ),
    ("completions", &["completions bash", "completions zsh"]),
    (
        "dev",
        &[
            "dev --tour",
            "dev --listen-base 3088",
            "dev --fault tampered",
        ],
    ),
    ("health", &["health --wait 30s"]),
    (
        "inbox list",
        &[
            "inbox list --state dead",
            "inbox list --state refused --json",
        ],
    ),
    ("inbox prune", &["inbox prune --older-than 3d"]),
    (
        "inbox replay",
        &[
            "inbox replay 01938b2e-7a3c-7f00-8000-000000000001",
            "inbox replay --state dead --type 'trade_*' --since 24h",
        ],
    ),
    ("inbox reverify", &["inbox reverify"]),
    (
        "inbox show",
        &["inbox show 01938b2e-7a3c-7f00-8000-000000000001 --explain"],
    ),
    ("init", &["init", "init --dir /etc/alipay-sidecar"]),
    ("man", &["man --dir /usr/local/share/man/man1"]),
    (
        "merchant add",
        &[
            "merchant add --app 2021000000000001 --auth-app-id 2021000000001001 --pid 2088000000001001 --alias shop --token -",
            "merchant add --app 2021000000000001 --auth-app-id 2021000000001001 --token env:TOKEN --refresh-token env:REFRESH",
        ],
    ),
    (
        "merchant export",
        &[
            "merchant export",
            "merchant export --with-tokens --to-key file:recipient_public_key.pem --out merchants.jwe",
        ],
    ),
    (
        "merchant import",
        &[
            "merchant import merchants.jsonl --dry-run",
            "merchant import merchants.jwe --key file:recipient_private_key.pem",
        ],
    ),
    (
        "merchant link",
        &[
            "merchant link --ref tenant-42",
            "merchant link --page in-app --valid 2h",
        ],
    ),
    ("merchant list", &["merchant list --limit 20"]),
    (
        "merchant open-export",
        &[
            "merchant open-export merchants.jwe --key file:recipient_private_key.pem --out merchants.jsonl",
        ],
    ),
    ("merchant remove", &["merchant remove app:2021000000001001"]),
    (
        "merchant show",
        &[
            "merchant show shop",
            "merchant show pid:2088000000001001 --json",
        ],
    ),
    (
        "merchant verify",
        &["merchant verify shop", "merchant verify --all --dry-run"],
    ),
    (
        "run",
        &[
            "-c /etc/alipay-sidecar/config.toml run",
            "run --create-store",
        ],
    ),
    (
        "sign",
        &[
            "sign --app 2021000000000001 --explain app_id=2021000000000001 method=alipay.trade.query charset=utf-8",
            "sign --private-key file:app_private_key.pem app_id=2021000000000001 method=alipay.trade.query",
        ],
    ),
    (
        "simulator",
        &[
            "simulator --dir sim",
            "simulator --dir sim --listen-base 3099 --webhook 127.0.0.1:3089",
        ],
    ),
    ("store backup", &["store backup /backup/sidecar.redb"]),
    (
        "store check",
        &["store check --json", "store check --repair"],
    ),
    ("store compact", &["store compact"]),
    ("store create", &["store create"]),
    (
        "store migrate",
        &["store migrate --to postgres://sidecar@db.internal/sidecar"],
    ),
    ("store rekey", &["store rekey --new-key file:data/new.key"]),
    (
        "store restore",
        &["store restore /backup/sidecar.redb --replace"],
    ),
    ("store stats", &["store stats --json"]),
    (
        "token exchange",
        &["token exchange --app 2021000000000001 --code -"],
    ),
    ("token query", &["token query --merchant shop"]),
    ("token refresh", &["token refresh --merchant shop"]),
    (
        "trigger",
        &[
            "trigger plugin-order",
            "trigger payment --out-trade-no 42 --simulator http://127.0.0.1:3099",
        ],
    ),
    (
        "verify",
        &[
            "verify --kind notification --app 2021000000000001 --explain body.txt",
            "verify --kind response --method alipay.trade.query --alipay-public-key file:alipay_public_key.pem reply.json",
            "verify --kind v3 --alipay-public-key file:alipay_public_key.pem -",
        ],
    ),
    ("version", &["version --json"]),
];

#[cfg(test)]
mod tests {
    use clap::ArgMatches;

    use super::*;
    use crate::cli::described;

    /// The words of a line as a shell would make them, as far as the examples need it.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
        for c in line.chars() {
            match c {
                '\'' => is_quoted = !is_quoted,
                ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
                c => word.push(c),
            }
        }
        words.push(word);
        words
    }

    fn path(matches: &ArgMatches) -> String {
        match matches.subcommand() {
            None => String::new(),
            Some((name, below)) => format!("{name} {}", path(below)).trim_end().to_owned(),
        }
    }

    /// The paths of the verbs that do something.
    fn leaves(command: &Command, above: &str) -> Vec<String> {
        let verbs = command.get_subcommands();
        verbs
            .filter(|verb| verb.get_name() != "help")
            .flat_map(|verb| {
                let path = format!("{above} {}", verb.get_name())
                    .trim_start()
                    .to_owned();
                match verb.has_subcommands() {
                    true => leaves(verb, &path),
                    false => vec![path],
                }
            })
            .collect()
    }

    #[test]
    fn every_example_is_one_of_its_verb() {
        for (of, lines) in EXAMPLES {
            for line in *lines {
                let words = words(&format!("{PROGRAM} {line}"));
                let read = described().try_get_matches_from(words);
                let read = read.unwrap_or_else(|error| panic!("{line}: {error}"));
                if !of.is_empty() {
                    assert_eq!(path(&read), *of, "{line}");
                }
            }
        }
    }

    #[test]
    fn every_verb_has_examples_and_no_example_is_without_a_verb() {
        let leaves = leaves(&described(), "");
        for leaf in &leaves {
            let found = EXAMPLES.iter().filter(|(of, _)| of == leaf).count();
            assert_eq!(found, 1, "{leaf}");
        }
        assert_eq!(EXAMPLES.len(), leaves.len() + 1);
        let help = described().render_long_help().to_string();
        assert!(help.contains("Examples:\n  alipay-sidecar init"), "{help}");
    }

    #[test]
    fn what_reads_no_configuration_takes_the_option_and_does_not_offer_it() {
        let mut command = described();
        command.build();
        for verb in crate::cli::IDLE {
            let found = command.find_subcommand_mut(verb).expect("a verb");
            let help = found.render_long_help().to_string();
            assert!(!help.contains("--config"), "{help}");
        }
        let run = command.find_subcommand_mut("run").expect("a verb");
        assert!(run.render_long_help().to_string().contains("--config"));
        for line in ["-c x version", "version -c x"] {
            let words = words(&format!("{PROGRAM} {line}"));
            assert!(described().try_get_matches_from(words).is_ok(), "{line}");
        }
    }
}
