//! Every operation of the admin listener, in one table: routing, what it refuses, and the OpenAPI
//! document are made of it, so that none of them can know another path, method or parameter.

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::admin::json::Object;
use crate::admin::problem::Problem;
use crate::model::id::{AppId, AuthAppId, InvalidId};

mod table;

pub(super) use table::OPERATIONS;

/// What an operation does. Each stands once in the table, and once where it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    AuditHead,
    Backup,
    CheckApp,
    CheckStore,
    CheckWebhook,
    DescribeToken,
    Document,
    Drain,
    Exchange,
    Export,
    Import,
    Link,
    ListApps,
    ListInbox,
    ListMerchants,
    Live,
    Metrics,
    Prune,
    PutApp,
    PutMerchant,
    Ready,
    Refresh,
    Reload,
    RemoveApp,
    RemoveMerchant,
    Replay,
    ReplayMany,
    Reverify,
    ReverifyMany,
    ShowApp,
    ShowConfig,
    ShowEntry,
    ShowMerchant,
    StoreStats,
    Subscribe,
    Verify,
}

/// Who may ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Anyone who reaches the listener.
    Anyone,
    /// Who has the token: all that is under `/api`.
    Operator,
    /// Who has the token, where others than this host reach the listener.
    OperatorFromAfar,
}

/// One operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    pub(super) does: Does,
    pub(super) method: &'static Method,
    /// Names in braces stand for one segment each.
    pub(super) path: &'static str,
    pub(super) about: &'static str,
    pub(super) query: &'static [Parameter],
    pub(super) body: Option<RequestBody>,
    pub(super) answer: Answer,
    /// A second answer that is no error.
    pub(super) otherwise: Option<Answer>,
    /// The statuses of its own errors, besides those that all have.
    pub(super) refusals: &'static [u16],
}

/// A parameter of the query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) form: ParameterForm,
}

/// What a parameter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParameterForm {
    AppId,
    Duration,
    Flag,
    Limit,
    Order,
    /// Where a page begins; empty: at the beginning.
    Position,
    State,
    Text,
}

/// What a request carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum RequestBody {
    /// A JSON object a line.
    Lines(&'static Object),
    /// A JSON object.
    Object(&'static Object),
    /// A JSON object, or nothing.
    Optional(&'static Object),
}

/// What is answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) about: &'static str,
    pub(super) content: Content,
}

/// What an answer carries.
#[derive(Debug, Clone, Copy)]
pub(super) enum Content {
    Binary,
    Json(fn(&mut SchemaGenerator) -> Schema),
    Nothing,
    Text,
}

impl Content {
    pub(super) const fn json<T: JsonSchema>() -> Self {
        Self::Json(SchemaGenerator::subschema_for::<T>)
    }
}

impl Operation {
    pub(super) fn admission(&self) -> Admission {
        match self.does {
            Does::Live | Does::Ready => Admission::Anyone,
            Does::Metrics => Admission::OperatorFromAfar,
            _ => Admission::Operator,
        }
    }

    /// Whether HEAD is taken as well: probes and scrapers ask with it (`wget --spider`). Nobody asks
    /// so for what is under `/api`.
    pub(super) fn takes_head(&self) -> bool {
        self.method == Method::GET && self.admission() != Admission::Operator
    }

    /// Every method it is asked with.
    fn methods(&self) -> impl Iterator<Item = &'static Method> + use<> {
        let head = self.takes_head().then_some(&Method::HEAD);
        std::iter::once(self.method).chain(head)
    }

    /// The statuses of all errors it may end with.
    pub(super) fn problems(&self) -> Vec<u16> {
        let mut statuses = vec![400];
        match self.admission() {
            Admission::Anyone => {}
            Admission::Operator => statuses.extend([401, 403, 413, 503]),
            Admission::OperatorFromAfar => statuses.push(401),
        }
        statuses.extend(self.refusals);
        statuses.sort_unstable();
        statuses
    }
}

/// An operation that was asked for.
#[derive(Debug)]
pub(super) struct Asked<'p> {
    pub(super) operation: &'static Operation,
    path: &'p str,
}

impl<'p> Asked<'p> {
    /// What stands in the place of `{name}`; every operation that asks has it in its path.
    pub(super) fn segment(&self, name: &str) -> &'p str {
        let mut pairs = self.operation.path.split('/').zip(self.path.split('/'));
        let found = pairs.find(|(template, _)| placeholder(template) == Some(name));
        debug_assert!(found.is_some(), "{} has no {name}", self.operation.path);
        found.map_or("", |(_, segment)| segment)
    }

    pub(super) fn app_id(&self) -> Result<AppId, Problem> {
        AppId::new(self.segment("app_id")).map_err(wrong)
    }

    pub(super) fn auth_app_id(&self) -> Result<AuthAppId, Problem> {
        AuthAppId::new(self.segment("auth_app_id")).map_err(wrong)
    }

    pub(super) fn merchant(&self) -> Result<(AppId, AuthAppId), Problem> {
        Ok((self.app_id()?, self.auth_app_id()?))
    }
}

fn wrong(error: InvalidId) -> Problem {
    Problem::parameter_invalid(error.to_string())
}

/// The operation that `method` and `path` name.
pub(super) fn find<'p>(method: &Method, path: &'p str) -> Result<Asked<'p>, Problem> {
    let fitting = OPERATIONS.iter().filter(|o| fits(o.path, path));
    // `/api/inbox/prune` is no entry called so.
    let template = fitting.map(|o| o.path).min_by_key(|path| names(path));
    let template = template.ok_or_else(Problem::route_unknown)?;
    let here = OPERATIONS.iter().filter(|o| o.path == template);
    match here.clone().find(|o| o.methods().any(|own| own == method)) {
        Some(operation) => Ok(Asked { operation, path }),
        None => {
            let methods = here.flat_map(Operation::methods);
            let methods: Vec<&str> = methods.map(Method::as_str).collect();
            Err(Problem::method_not_allowed(methods.join(", ")))
        }
    }
}

/// How many segments of a template anything may stand for.
fn names(template: &str) -> usize {
    template.split('/').filter_map(placeholder).count()
}

fn fits(template: &str, path: &str) -> bool {
    let fits =
        |(template, segment): (&str, &str)| placeholder(template).is_some() || template == segment;
    template.split('/').count() == path.split('/').count()
        && template.split('/').zip(path.split('/')).all(fits)
}

/// The name in braces that a segment of a template is.
pub(super) fn placeholder(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found_by_its_own_path_alone() {
        for operation in &OPERATIONS {
            let path = operation.path.replace(['{', '}'], "");
            let asked = find(operation.method, &path).expect("found");
            assert_eq!(asked.operation.does, operation.does, "{path}");
            let twins = OPERATIONS.iter().filter(|o| o.does == operation.does);
            assert_eq!(twins.count(), 1, "{path}");
            let is_api = operation.path.starts_with("/api/");
            assert_eq!(
                is_api,
                operation.admission() == Admission::Operator,
                "{path}"
            );
        }
    }

    #[test]
    fn what_a_path_does_not_take_is_refused_with_what_it_takes() {
        for (method, path, allowed) in [
            (Method::POST, "/api/apps/1", Some("GET, PUT, DELETE")),
            (Method::GET, "/api/inbox/prune", Some("POST")),
            (Method::PATCH, "/api/inbox/x", Some("GET")),
            (Method::OPTIONS, "/livez", Some("GET, HEAD")),
            (Method::HEAD, "/api/inbox", Some("GET")),
            (Method::GET, "/api/apps/1/2/3", None),
            (Method::GET, "/api/", None),
            (Method::GET, "/livez/", None),
        ] {
            let problem = find(&method, path).expect_err(path);
            assert_eq!(problem.allowed(), allowed, "{path}");
        }
    }

    #[test]
    fn an_answer_of_one_status_stands_once() {
        for operation in &OPERATIONS {
            let answers = [Some(operation.answer), operation.otherwise];
            let answers = answers.into_iter().flatten().map(|answer| answer.status);
            let mut statuses: Vec<u16> = answers.chain(operation.problems()).collect();
            let all = statuses.len();
            statuses.sort_unstable();
            statuses.dedup();
            assert_eq!(
                statuses.len(),
                all,
                "{} {}",
                operation.method,
                operation.path
            );
        }
    }
}
