//! Which path of v3 does what.
use http::Method;

use super::{
    super::{methods, world::World},
    FixedAnswer,
};

/// What a path leads to.
#[derive(Clone)]
pub(super) enum Route {
    /// To the answer a test has given.
    Fixed(FixedAnswer),
    /// To the method of v2 that does the same.
    Method(String),
}

impl Route {
    /// Finds the route of a verb and path; none where nothing answers.
    pub(super) fn find(world: &World, verb: &Method, path: &str) -> Option<Self> {
        let key = (verb.to_string(), path.to_owned());
        if let Some(fixed) = world.v3_answers.get(&key) {
            return Some(Self::Fixed(fixed.clone()));
        }
        let path = path.strip_prefix("/v3/")?;
        if path.contains('.') {
            // The name of a method is no path.
            return None;
        }
        let method = path.replace('/', ".");
        methods::identity(&method)?;
        verbs(&method)
            .contains(verb)
            .then_some(Self::Method(method))
    }

    /// Names the method of v2; empty when a test answers.
    pub(super) fn method(&self) -> &str {
        match self {
            Self::Fixed(_) => "",
            Self::Method(method) => method,
        }
    }
}

/// Protocol: the pages of the single APIs; most are POST.
fn verbs(method: &str) -> &'static [Method] {
    match method {
        "alipay.open.auth.token.app.query" => &[Method::GET],
        "alipay.open.app.alipaycert.download" => &[Method::GET, Method::POST],
        _ => &[Method::POST],
    }
}
