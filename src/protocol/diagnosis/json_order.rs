//! The orders in which the members of a JSON text may have stood.

use std::{borrow::Cow, collections::BTreeSet};

use super::{json_text::WRITING, work::Work};
use crate::protocol::{
    charset::Charset,
    json::{self, Member},
};

/// Gives a text with its members in other orders, the likeliest first, each once.
pub(super) fn orders(text: &str, work: &Work) -> Vec<String> {
    work.charge(WRITING * text.len());
    if !work.is_left() {
        return Vec::new();
    }
    let mut written = of_members(text, work);
    written.extend(of_depths(text, work));
    let mut seen = BTreeSet::from([text.to_owned()]);
    written.retain(|written| seen.insert(written.clone()));
    written
}

/// Gives the members of an object in other orders: Alipay's (`code` and `msg` first), by name, and
/// every order of the rest where there are few.
fn of_members(text: &str, work: &Work) -> Vec<String> {
    let Ok(members) = json::members(text.as_bytes(), Charset::Utf8) else {
        return Vec::new();
    };
    let (mut head, mut rest) = (Vec::new(), Vec::new());
    for member in &members {
        match HEAD.iter().position(|name| *name == member.name) {
            Some(place) => head.push((place, member)),
            None => rest.push(member),
        }
    }
    head.sort_by_key(|&(place, _)| place);
    let head: Vec<_> = head.into_iter().map(|(_, member)| member).collect();
    let mut by_name: Vec<_> = members.iter().collect();
    by_name.sort_by(|left, right| left.name.cmp(&right.name));
    let mut rest_by_name = rest.clone();
    rest_by_name.sort_by(|left, right| left.name.cmp(&right.name));
    let mut orders = vec![
        [head.clone(), rest.clone()].concat(),
        [head.clone(), rest_by_name].concat(),
        by_name,
    ];
    if (2..=MOST_PERMUTED).contains(&rest.len()) {
        let permuted = permutations(&rest).into_iter();
        orders.extend(permuted.map(|rest| [head.clone(), rest].concat()));
    }
    let orders = work.while_left(orders.iter());
    let written = orders.map(|order| {
        work.charge(text.len());
        write_members(text, order)
    });
    written.collect()
}

fn write_members(text: &str, members: &[&Member<'_>]) -> String {
    let joined: Vec<_> = members
        .iter()
        .map(|member| {
            let name = serde_json::Value::from(&*member.name);
            let value = text.get(member.value.clone()).unwrap_or_default();
            format!("{name}:{value}")
        })
        .collect();
    format!("{{{}}}", joined.join(","))
}

fn permutations<T: Copy>(items: &[T]) -> Vec<Vec<T>> {
    let Some((first, rest)) = items.split_first() else {
        return vec![Vec::new()];
    };
    let mut all = Vec::new();
    for shorter in permutations(rest) {
        for place in 0..=shorter.len() {
            let mut longer = shorter.clone();
            longer.insert(place, *first);
            all.push(longer);
        }
    }
    all
}

/// Gives a text with the members of the objects inside it in other orders: all of them by name, and
/// those of the same few names alike in every order. So lists of objects, such as
/// `fund_bill_list`, are put right.
fn of_depths(text: &str, work: &Work) -> Vec<String> {
    work.charge(READING * text.len());
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return Vec::new();
    }
    let Some(whole) = Node::read(text, 0) else {
        return Vec::new();
    };
    let mut shapes = BTreeSet::new();
    whole.shapes(&mut shapes);
    let by_name = std::iter::once_with(|| {
        whole.written(&|members| {
            members.sort_by(|left, right| left.0.cmp(&right.0));
        })
    });
    let permuted = shapes.iter().take(MOST_SHAPES).flat_map(|shape| {
        let orders = permutations(shape).into_iter();
        orders.map(|order| whole.written(&|members| sort_as(members, &order)))
    });
    let written = by_name.chain(permuted);
    let written = written.inspect(|_| work.charge(WRITING * text.len()));
    work.while_left(written).collect()
}

/// Puts the members of an object into an order that names all of them, and no others.
fn sort_as(members: &mut [&Named<'_>], order: &[&str]) {
    let place = |name: &str| order.iter().position(|known| *known == name);
    let is_shape =
        members.len() == order.len() && members.iter().all(|(name, _)| place(name).is_some());
    if is_shape {
        members.sort_by_key(|(name, _)| place(name));
    }
}

/// A JSON text taken apart as far as the order of members goes.
enum Node<'t> {
    List(Vec<Self>),
    Object(Vec<Named<'t>>),
    Plain(&'t str),
}

type Named<'t> = (Cow<'t, str>, Node<'t>);

impl<'t> Node<'t> {
    fn read(text: &'t str, depth: usize) -> Option<Self> {
        let text = text.trim();
        if depth > DEEPEST {
            return Some(Self::Plain(text));
        }
        let below = |text: &'t str| Self::read(text, depth + 1);
        Some(match text.bytes().next()? {
            b'{' => {
                let members = json::members(text.as_bytes(), Charset::Utf8).ok()?;
                let members = members.into_iter();
                let named =
                    members.map(|member| Some((member.name, below(text.get(member.value)?)?)));
                Self::Object(named.collect::<Option<_>>()?)
            }
            b'[' => {
                let elements = elements(text).into_iter();
                Self::List(elements.map(below).collect::<Option<_>>()?)
            }
            _ => Self::Plain(text),
        })
    }

    /// Gathers the names of each object that has few.
    fn shapes<'a>(&'a self, found: &mut BTreeSet<Vec<&'a str>>) {
        match self {
            Self::List(elements) => elements.iter().for_each(|element| element.shapes(found)),
            Self::Object(members) => {
                let mut names: Vec<_> = members.iter().map(|(name, _)| &**name).collect();
                names.sort_unstable();
                if (2..=MOST_PERMUTED).contains(&names.len()) {
                    found.insert(names);
                }
                members.iter().for_each(|(_, value)| value.shapes(found));
            }
            Self::Plain(_) => {}
        }
    }

    fn written(&self, sort: &dyn Fn(&mut Vec<&Named<'t>>)) -> String {
        match self {
            Self::List(elements) => {
                let elements: Vec<_> = elements.iter().map(|one| one.written(sort)).collect();
                format!("[{}]", elements.join(","))
            }
            Self::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                sort(&mut members);
                let members: Vec<_> = members
                    .iter()
                    .map(|(name, value)| {
                        let name = serde_json::Value::from(&**name);
                        format!("{name}:{}", value.written(sort))
                    })
                    .collect();
                format!("{{{}}}", members.join(","))
            }
            Self::Plain(text) => (*text).to_owned(),
        }
    }
}

/// Splits a valid list into its elements.
fn elements(list: &str) -> Vec<&str> {
    let inner = list
        .strip_prefix('[')
        .and_then(|list| list.strip_suffix(']'));
    let inner = inner.unwrap_or_default();
    if inner.trim().is_empty() {
        return Vec::new();
    }
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let is_comma = |c: char| {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = in_string,
            '"' => in_string = !in_string,
            '{' | '[' if !in_string => depth += 1,
            '}' | ']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0 && !in_string
    };
    inner.split(is_comma).collect()
}

/// What Alipay's nodes begin with.
const HEAD: [&str; 4] = ["code", "msg", "sub_code", "sub_msg"];

/// Five members have 120 orders.
const MOST_PERMUTED: usize = 5;

/// Of so many kinds of objects every order is tried.
const MOST_SHAPES: usize = 4;

/// What lies deeper keeps its order.
const DEEPEST: usize = 6;

/// What it costs to take a byte apart.
const READING: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arrived: &str, signed: &str) {
        let found = orders(arrived, &Work::default());
        assert!(found.iter().any(|written| written == signed), "{signed}");
        assert!(!found.iter().any(|written| written == arrived));
    }

    #[test]
    fn lists_of_objects_are_put_into_other_orders() {
        check(
            r#"[{"fundChannel":"ALIPAYACCOUNT","amount":"0.01"},{"fundChannel":"PCREDIT","amount":"[,"}]"#,
            r#"[{"amount":"0.01","fundChannel":"ALIPAYACCOUNT"},{"amount":"[,","fundChannel":"PCREDIT"}]"#,
        );
        check(
            r#"[{"a":"\",","b":1}, {"a":2,"b":3}]"#,
            r#"[{"b":1,"a":"\","},{"b":3,"a":2}]"#,
        );
        check(
            r#"{"a":[{"z":1,"y":{"d":1,"c":[]}}],"f":1,"e":2,"d":3,"c":4,"b":5}"#,
            r#"{"a":[{"y":{"c":[],"d":1},"z":1}],"b":5,"c":4,"d":3,"e":2,"f":1}"#,
        );
        let voucher = r#"[{"voucherId":"1","type":"T","otherContribute":"0","name":"n","memo":"m","amount":"1"}]"#;
        let signed = r#"[{"amount":"1","memo":"m","name":"n","otherContribute":"0","type":"T","voucherId":"1"}]"#;
        check(voucher, signed);
    }

    #[test]
    fn what_is_no_json_has_no_orders() {
        for text in ["[", "[}", "{\"a\":1,}", "", "[1,2]", "[]", "{}"] {
            assert_eq!(
                orders(text, &Work::default()),
                Vec::<String>::new(),
                "{text}"
            );
        }
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert_eq!(orders(&deep, &Work::default()), Vec::<String>::new());
    }
}
