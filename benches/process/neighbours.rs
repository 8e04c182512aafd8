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
use crate::load::{Callers, Make, Taken};
use crate::program::Program;
use crate::table::{Finding, Wanted, digits, median, over};
use crate::world::{UPLOAD, World, call, files};

/// Connections of small calls, and of large ones.
const CONNECTIONS: usize = 16;
const UPLOADS: usize = 2;
/// The large body.
const LARGE: usize = 10_000_000;
/// How long a neighbour may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn measure(
    runtime: &Runtime,
    world: &World,
    plan: &Plan,
) -> anyhow::Result<Vec<Finding>> {
    let mut findings = vec![small(runtime, world, plan)?];
    findings.extend(large(runtime, world, plan)?);
    Ok(findings)
}

/// Sidecar and neighbour in one round, and RSA in the same.
struct Round {
    rsa: f64,
    neighbour: Option<Taken>,
    sidecar: Taken,
}

fn small(runtime: &Runtime, world: &World, plan: &Plan) -> anyhow::Result<Finding> {
    let what = "processor time of a call but for its RSA, to nginx passing it on";
    let wanted = Wanted::AtMost(1.15);
    let (nginx, address) = match nginx(world) {
        Ok(nginx) => nginx,
        Err(error) => return Ok(Finding::without_base(what, wanted, &format!("{error:#}"))),
    };
    let sidecar = world.sidecar("small")?;
    let connect = |address: &str| runtime.block_on(Callers::connect(address, CONNECTIONS, call()));
    let (mut of_nginx, mut own) = (connect(&address)?, connect(&sidecar.proxy)?);
    let rounds = plan.rounds(|| {
        Ok(Round {
            rsa: world.rsa.on_all_cores(plan.slice)?,
            neighbour: Some(runtime.block_on(of_nginx.slice(plan, &nginx))?),
            sidecar: runtime.block_on(own.slice(plan, &sidecar.program))?,
        })
    })?;
    let nginx = |r: &Round| r.neighbour.as_ref().map_or(f64::NAN, Taken::cpu);
    let own = |r: &Round| r.sidecar.cpu() - r.rsa;
    Ok(Finding {
        what: format!("{what}, {CONNECTIONS} connections"),
        figures: rounds.iter().map(|r| own(r) / nginx(r)).collect(),
        unit: "",
        wanted,
        beside: format!(
            "{} of {} µs",
            digits(over(&rounds, own)),
            digits(over(&rounds, nginx))
        ),
    })
}

fn large(runtime: &Runtime, world: &World, plan: &Plan) -> anyhow::Result<Vec<Finding>> {
    let sidecar = world.sidecar("large")?;
    let connect = |address: &str, size| {
        let make = upload(size);
        runtime.block_on(Callers::connect(address, UPLOADS, make))
    };
    let mut tiny = connect(&sidecar.proxy, 1_000)?;
    runtime.block_on(tiny.call(plan.slice))?;
    let before = sidecar.program.peak()?;
    let haproxy = haproxy(world);
    let mut of_haproxy = match &haproxy {
        Ok((_, address)) => Some(connect(address, LARGE)?),
        Err(_) => None,
    };
    let mut own = connect(&sidecar.proxy, LARGE)?;
    let rounds = plan.rounds(|| {
        let neighbour = match (&mut of_haproxy, &haproxy) {
            (Some(callers), Ok((haproxy, _))) => {
                Some(runtime.block_on(callers.slice(plan, haproxy))?)
            }
            _ => None,
        };
        let sidecar = runtime.block_on(own.slice(plan, &sidecar.program))?;
        Ok(Round {
            rsa: f64::NAN,
            neighbour,
            sidecar,
        })
    })?;
    let grown = sidecar.program.peak()? - before;
    let why = haproxy.as_ref().err().map(|error| format!("{error:#}"));
    Ok(vec![against_haproxy(&rounds, why), peak(before, grown)])
}

fn against_haproxy(rounds: &[Round], why: Option<String>) -> Finding {
    let what = "processor time of an upload of 10 MB, to HAProxy passing it on";
    let wanted = Wanted::AtMost(1.1);
    let own = |r: &Round| r.sidecar.cpu() / 1e3;
    if let Some(why) = why {
        return Finding::without_base(what, wanted, &why);
    }
    let haproxy = |r: &Round| r.neighbour.as_ref().map_or(f64::NAN, |t| t.cpu() / 1e3);
    Finding {
        what: what.to_owned(),
        figures: rounds.iter().map(|r| own(r) / haproxy(r)).collect(),
        unit: "",
        wanted,
        beside: format!(
            "{} of {} ms",
            digits(over(rounds, own)),
            digits(over(rounds, haproxy))
        ),
    }
}

fn peak(before: f64, grown: f64) -> Finding {
    let mebibyte = f64::from(1 << 20);
    Finding {
        what: format!("peak memory that {UPLOADS} uploads of 10 MB at once add to those of 1 kB"),
        figures: vec![median(vec![grown / mebibyte])],
        unit: " MiB",
        wanted: Wanted::AtMost(16.0),
        beside: format!("to {} MiB", digits(before / mebibyte)),
    }
}

/// An upload whose file has `size` bytes.
fn upload(size: usize) -> Make {
    const BOUNDARY: &str = "bench-boundary";
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image_type\"\r\n\r\nbin\r\n\
         --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image_content\"; \
         filename=\"large.bin\"\r\n\r\n"
    );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let body = [head.into_bytes(), vec![b'x'; size], tail.into_bytes()].concat();
    let body = Bytes::from(body);
    Arc::new(move |_, _| {
        Ok(Request::post(format!("/gateway.do?method={UPLOAD}"))
            .header("host", "127.0.0.1")
            .header("alipay-merchant", "shop")
            .header(
                "content-type",
                format!("multipart/form-data; boundary={BOUNDARY}"),
            )
            .body(Full::new(body.clone()))?)
    })
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
