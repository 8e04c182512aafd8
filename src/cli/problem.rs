//! A failure as JSON: with `--json`, one object on standard output that has the members of the admin
//! API's problems, so that one reader understands both.

use serde_json::{Value, json};

use crate::admin::error::AdminError;
use crate::admin::problem::Problem;
use crate::cli::failure::Failure;
use crate::store::error::StoreError;

/// What a running sidecar answered, its document with it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Refused {
    pub(crate) text: String,
    pub(crate) document: Value,
}

/// The object that says why `failure` happened.
pub(crate) fn of(failure: &Failure) -> Value {
    match failure {
        Failure::Configuration(errors) => Problem::of_configuration(errors).to_json(),
        Failure::NotVerified(text) => bare("not-verified", "Not verified", text),
        Failure::Other(error) => of_other(error),
        Failure::Usage(text) => usage(text),
    }
}

/// The same for arguments that aren't understood at all.
pub(crate) fn usage(text: &str) -> Value {
    bare("usage", "Wrong usage", text)
}

fn of_other(error: &anyhow::Error) -> Value {
    let mut causes = error.chain();
    let known = causes.find_map(|cause| {
        let refused = cause.downcast_ref::<Refused>();
        let refused = refused.map(|refused| refused.document.clone());
        refused
            .or_else(|| cause.downcast_ref::<AdminError>().map(of_admin))
            .or_else(|| cause.downcast_ref::<StoreError>().map(of_store))
    });
    let mut members = known.unwrap_or_else(|| bare("failed", "Failed", ""));
    if members.get("faults").is_none() {
        // All of it: what was done when that went wrong stands around it.
        members["detail"] = json!(format!("{error:#}"));
    }
    members
}

fn of_admin(error: &AdminError) -> Value {
    Problem::of_error(error).to_json()
}

fn of_store(error: &StoreError) -> Value {
    Problem::of_store(error).to_json()
}

fn bare(code: &str, title: &str, detail: &str) -> Value {
    json!({
        "type": format!("urn:alipay-sidecar:error:{code}"),
        "title": title,
        "detail": detail,
        "code": code,
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn what_failed_is_told_by_the_word_of_the_api_and_with_all_that_stands_around_it() {
        let taken = || StoreError::AliasTaken {
            alias: "shop".to_owned(),
            owner: "2021".to_owned(),
        };
        let around = Err::<(), _>(taken()).context("in line 3").expect_err("one");
        for (failure, code, text) in [
            (Failure::from(taken()), "alias-conflict", "`shop`"),
            (Failure::from(around), "alias-conflict", "in line 3: alias"),
            (
                Failure::from(AdminError::EventUnknown { id: "7".to_owned() }),
                "event-unknown",
                "no entry 7",
            ),
            (anyhow::anyhow!("gone").into(), "failed", "gone"),
            (Failure::Usage("so".to_owned()), "usage", "so"),
        ] {
            let told = of(&failure);
            assert_eq!(told["code"], code, "{told}");
            let detail = told["detail"].as_str().expect("text");
            assert!(detail.contains(text), "{told}");
            assert_eq!(told["type"], format!("urn:alipay-sidecar:error:{code}"));
        }
    }

    #[test]
    fn what_the_sidecar_said_is_passed_on() {
        let refused = Refused {
            text: "the sidecar says x: y".to_owned(),
            document: json!({"code": "x", "detail": "y", "request_id": "7"}),
        };
        let told = of(&anyhow::Error::from(refused).into());
        assert_eq!(
            (&told["code"], &told["request_id"]),
            (&json!("x"), &json!("7"))
        );
    }
}
