use prometheus::Registry;

use super::*;
use crate::clock::ManualClock;
use crate::telemetry::metrics::TraceMetrics;

const NOW_MS: i64 = 1_795_335_630_000;

fn tracer(on: bool) -> (Tracer, Arc<Queue>) {
    let metrics = TraceMetrics::register(&Registry::new()).expect("new");
    let queue = Arc::new(Queue::new(metrics));
    queue.switch(on);
    let tracer = Tracer::new(Arc::clone(&queue), Arc::new(ManualClock::new(NOW_MS)));
    (tracer, queue)
}

fn server() -> Beginning {
    Beginning::new(Kind::Server, "a request")
}

/// The span that `tell` tells of.
fn told(tell: impl FnOnce(&Span)) -> Option<Finished> {
    let (tracer, queue) = tracer(true);
    tell(&tracer.begin(server()));
    queue.take().pop()
}

fn attributes(tell: impl FnOnce(&Span)) -> Vec<(&'static str, Value)> {
    told(tell).expect("a span").attributes
}

#[test]
fn where_nobody_is_there_or_the_caller_does_not_record_nothing_is_begun() {
    let parent = |flags: &str| {
        TraceParent::parse(&format!(
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"
        ))
    };
    for (on, flags, is_recorded) in [
        (false, "01", false),
        (true, "00", false),
        (true, "02", false),
        (true, "01", true),
        (true, "03", true),
    ] {
        let (tracer, _) = tracer(on);
        let span = tracer.begin(server().within(parent(flags)));
        assert_eq!(span.is_recorded(), is_recorded, "{on} {flags}");
        let child = span.child(Kind::Client, "POST");
        assert_eq!(child.is_recorded(), is_recorded, "{on} {flags}");
    }
    assert!(!Tracer::default().begin(server()).is_recorded());
}

#[test]
fn a_span_ends_with_its_last_handle_and_lies_around_its_parts() {
    let (tracer, queue) = tracer(true);
    let began = Instant::now();
    let span = tracer.begin(server().at(began));
    let same = span.clone();
    drop(span);
    assert_eq!(queue.take(), []);
    drop(same.past("sign", began));
    drop(same);
    let spans = queue.take();
    let [part, whole] = spans.as_slice() else {
        panic!("{spans:#?}");
    };
    assert_eq!(part.parent, Some(whole.place.span_id));
    assert_eq!(part.place.trace_id, whole.place.trace_id);
    assert_eq!(part.began_ns, whole.began_ns);
    assert!(part.ended_ns <= whole.ended_ns);
    let now_ns = u64::try_from(NOW_MS).expect("positive") * 1_000_000;
    assert!(
        whole.began_ns <= now_ns && now_ns <= whole.ended_ns,
        "{whole:?}"
    );
}

#[test]
fn the_last_word_under_a_key_counts_and_is_cut_to_a_bound() {
    let said = attributes(|span| {
        span.set("a", "first");
        span.set("a", "中".repeat(100).as_str());
        span.set_some("b", None::<&str>);
    });
    assert_eq!(said, [("a", Value::Text("中".repeat(42)))]);
}

#[test]
fn of_a_url_the_host_alone_is_told() {
    for (url, host, port) in [
        (
            "https://a.example/gateway.do?app_auth_token=t",
            "a.example",
            443,
        ),
        ("http://127.0.0.1/secret", "127.0.0.1", 80),
        ("http://[::1]:3000/", "[::1]", 3000),
    ] {
        let expected = [
            ("server.address", Value::from(host)),
            ("server.port", Value::from(port)),
        ];
        assert_eq!(attributes(|span| span.set_server(url)), expected, "{url}");
    }
}

#[test]
fn a_server_fails_from_500_on_and_the_word_that_was_said_stays() {
    for (status, is_error) in [(200, false), (404, false), (500, true), (503, true)] {
        let span = told(|span| span.set_status(status)).expect("a span");
        assert_eq!(span.is_error, is_error, "{status}");
    }
    let span = told(|span| {
        span.fail("upstream-timeout");
        span.set_status(504);
    });
    let said = ("error.type", Value::from("upstream-timeout"));
    assert!(span.expect("a span").attributes.contains(&said));
}

#[test]
fn of_what_is_discarded_nothing_is_told() {
    assert_eq!(told(Span::discard), None);
}
