//! Other people's proxies: nginx for a small call, HAProxy for a large body.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::runtime::Runtime;

use crate::Plan;
use crate::load::{Answer, Callers, Calls, Taken};
use crate::program::Program;
use crate::rsa::Computed;
use crate::table::{Finding, Wanted, digits, over};
use crate::world::{IMAGE_ID, QUERY, UPLOAD, World, calls, files, handed_on};

/// Connections of small calls, and of large ones.
const CONNECTIONS: usize = 16;
const UPLOADS: usize = 2;
/// The large body, and the small one, bytes.
const LARGE: usize = 10_000_000;
const SMALL: usize = 1_000;
/// How long a neighbour may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn measure(
    runtime: &Runtime,
    world: &World,
    plan: &Plan,
) -> anyhow::Result<Vec<Finding>> {
    Ok(vec![
        small(runtime, world, plan)?,
        against_haproxy(runtime, world, plan)?,
        peak(runtime, world, plan)?,
    ])
}

/// Sidecar, neighbour and the minimal proxy in one round, and RSA in the same.
#[derive(Default)]
struct Small {
    rsa: Computed,
    neighbour: Taken,
    proxy: Taken,
    sidecar: Taken,
}

fn small(runtime: &Runtime, world: &World, plan: &Plan) -> anyhow::Result<Finding> {
    let what = "processor time of a call but for its RSA, to nginx passing it on";
    let wanted = Wanted::AtMost(1.15);
    let (nginx, address) = match nginx(world) {
        Ok(nginx) => nginx,
        Err(error) => return Ok(Finding::without_base(what, wanted, &format!("{error:#}"))),
    };
    let (proxy, proxy_address) = world.role("proxy")?;
    let sidecar = world.sidecar("small")?;
    let connect =
        |address: &str, calls| runtime.block_on(Callers::connect(address, CONNECTIONS, calls));
    let mut of_nginx = connect(&address, handed_on(QUERY))?;
    let mut of_proxy = connect(&proxy_address, handed_on(QUERY))?;
    let mut own = connect(&sidecar.proxy, calls(QUERY))?;
    let rounds = plan.rounds(|| {
        let mut round = Small::default();
        for turn in plan.turns() {
            let half = turn.part(2).slice;
            round.rsa.add(&world.rsa.on_all_cores(half)?);
            round
                .sidecar
                .add(runtime.block_on(own.slice(&turn, &sidecar.program))?);
            round.rsa.add(&world.rsa.on_all_cores(half)?);
            round
                .neighbour
                .add(runtime.block_on(of_nginx.slice(&turn, &nginx))?);
            round
                .proxy
                .add(runtime.block_on(of_proxy.slice(&turn, &proxy))?);
        }
        Ok(round)
    })?;
    let own = |r: &Small| r.sidecar.cpu() - r.rsa.each();
    let nginx = |r: &Small| r.neighbour.cpu();
    let of_proxy = |r: &Small| r.proxy.cpu() / nginx(r);
    Ok(Finding {
        what: format!("{what}, {CONNECTIONS} connections"),
        figures: rounds.iter().map(|r| own(r) / nginx(r)).collect(),
        unit: "",
        wanted,
        beside: format!(
            "{} of {} µs; the minimal proxy {}",
            digits(over(&rounds, own)),
            digits(over(&rounds, nginx)),
            digits(over(&rounds, of_proxy))
        ),
    })
}

#[derive(Default)]
struct Large {
    neighbour: Taken,
    sidecar: Taken,
}

fn against_haproxy(runtime: &Runtime, world: &World, plan: &Plan) -> anyhow::Result<Finding> {
    let what = "processor time of an upload of 10 MB, to HAProxy passing it on";
    let wanted = Wanted::AtMost(1.1);
    let (haproxy, address) = match haproxy(world) {
        Ok(haproxy) => haproxy,
        Err(error) => return Ok(Finding::without_base(what, wanted, &format!("{error:#}"))),
    };
    let sidecar = world.sidecar("large")?;
    let connect = |address: &str, answer| {
        let calls = upload(LARGE, answer);
        runtime.block_on(Callers::connect(address, UPLOADS, calls))
    };
    let mut of_haproxy = connect(&address, Answer::Containing(IMAGE_ID))?;
    let mut own = connect(&sidecar.proxy, Answer::Verified(IMAGE_ID))?;
    let rounds = plan.rounds(|| {
        let mut round = Large::default();
        // An upload takes as long as a turn of small calls.
        for third in [plan.part(3), plan.part(3), plan.part(3)] {
            round
                .neighbour
                .add(runtime.block_on(of_haproxy.slice(&third, &haproxy))?);
            round
                .sidecar
                .add(runtime.block_on(own.slice(&third, &sidecar.program))?);
        }
        Ok(round)
    })?;
    let own = |r: &Large| r.sidecar.cpu() / 1e3;
    let haproxy = |r: &Large| r.neighbour.cpu() / 1e3;
    Ok(Finding {
        what: what.to_owned(),
        figures: rounds.iter().map(|r| own(r) / haproxy(r)).collect(),
        unit: "",
        wanted,
        beside: format!(
            "{} of {} ms",
            digits(over(&rounds, own)),
            digits(over(&rounds, haproxy))
        ),
    })
}

/// What large uploads add to a sidecar that has taken small ones, a fresh one each time.
fn peak(runtime: &Runtime, world: &World, plan: &Plan) -> anyhow::Result<Finding> {
    let mebibyte = f64::from(1 << 20);
    let mut rounds = Vec::with_capacity(plan.rounds);
    for round in 0..plan.rounds {
        let sidecar = world.sidecar(&format!("peak-{round}"))?;
        let call = |size| {
            let calls = upload(size, Answer::Verified(IMAGE_ID));
            runtime.block_on(async {
                let mut callers = Callers::connect(&sidecar.proxy, UPLOADS, calls).await?;
                callers.call(plan.slice).await
            })
        };
        call(SMALL)?;
        let before = sidecar.program.peak()?;
        call(LARGE)?;
        rounds.push((before, sidecar.program.peak()?));
    }
    let before = over(&rounds, |(before, _)| before / mebibyte);
    let grown = rounds
        .iter()
        .map(|(before, after)| (after - before) / mebibyte);
    Ok(Finding {
        what: format!("peak memory that {UPLOADS} uploads of 10 MB at once add to those of 1 kB"),
        figures: grown.collect(),
        unit: " MiB",
        wanted: Wanted::AtMost(16.0),
        beside: format!("to {} MiB", digits(before)),
    })
}

/// An upload whose file has `size` bytes.
fn upload(size: usize, answer: Answer) -> Calls {
    const BOUNDARY: &str = "bench-boundary";
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image_type\"\r\n\r\nbin\r\n\
         --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image_content\"; \
         filename=\"large.bin\"\r\n\r\n"
    );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let body = [head.into_bytes(), vec![b'x'; size], tail.into_bytes()].concat();
    let body = Bytes::from(body);
    let make = move |_, _| {
        Ok(Request::post(format!("/gateway.do?method={UPLOAD}"))
            .header("host", "127.0.0.1")
            .header("alipay-merchant", "shop")
            .header(
                "content-type",
                format!("multipart/form-data; boundary={BOUNDARY}"),
            )
            .body(Full::new(body.clone()))?)
    };
    Calls {
        make: Arc::new(make),
        answer,
    }
}

fn nginx(world: &World) -> anyhow::Result<(Program, String)> {
    let address = free()?;
    let port = world.upstream.rsplit(':').next().context("no port")?;
    let directory = world.path("nginx");
    std::fs::create_dir(&directory)?;
    let (here, ca) = (directory.display(), world.path(files::CA));
    let ca = ca.display();
    let text = format!(
        "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n access_log off;\n client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;\n\
         fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
         upstream alipay {{ server 127.0.0.1:{port}; keepalive 64; keepalive_requests 100000000; }}\n\
         server {{\n listen {address}; keepalive_requests 100000000;\n location / {{\n\
         proxy_pass https://alipay; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_ssl_server_name on; proxy_ssl_name localhost; proxy_ssl_verify on;\n\
         proxy_ssl_trusted_certificate {ca};\n }} }} }}\n"
    );
    let path = directory.join("nginx.conf");
    std::fs::write(&path, text)?;
    let mut command = Command::new("nginx");
    let started = start(command.arg("-c").arg(&path), &address);
    Ok((started.context("no nginx")?, address))
}

fn haproxy(world: &World) -> anyhow::Result<(Program, String)> {
    let address = free()?;
    let port = world.upstream.rsplit(':').next().context("no port")?;
    let ca = world.path(files::CA);
    let text = format!(
        "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         frontend in\n bind {address}\n default_backend alipay\n\
         backend alipay\n http-reuse always\n\
         server alipay 127.0.0.1:{port} ssl verify required ca-file {} verifyhost localhost \
         sni str(localhost)\n",
        ca.display()
    );
    let path = world.path("haproxy.cfg");
    std::fs::write(&path, text)?;
    let mut command = Command::new("haproxy");
    let started = start(command.arg("-f").arg(&path), &address);
    Ok((started.context("no HAProxy")?, address))
}

/// Starts a neighbour, and waits until it listens.
fn start(command: &mut Command, address: &str) -> anyhow::Result<Program> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut program = Program::new(command.stderr(Stdio::null()).spawn()?);
    let began = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        ensure!(!program.has_ended()?, "it ended: {command:?}");
        ensure!(began.elapsed() < PATIENCE, "it doesn't listen: {command:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(program)
}

/// An address that nobody listens on.
fn free() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.to_string())
}
