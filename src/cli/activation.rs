//! Socket activation: a supervisor (systemd) binds the listeners' sockets and hands them over, so
//! that they go on listening while the program restarts.
//!
//! Protocol: systemd, `sd_listen_fds(3)`. `LISTEN_FDS` sockets from descriptor 3 on, for the
//! process `LISTEN_PID`, named by `LISTEN_FDNAMES`.

use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::config::Config;
use crate::config::error::{ConfigErrors, Fault, Mismatch};
use crate::config::listen::Listen;
use crate::net::listener::Listener;
use crate::sidecar::BoundElsewhere;

/// The listeners, in the order in which sockets that say nothing else are taken.
const ROLES: [Role; 3] = [Role::Proxy, Role::Webhook, Role::Admin];

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Proxy,
    Webhook,
    Admin,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Webhook => "webhook",
            Self::Admin => "admin",
        }
    }

    /// The variable that sets where it listens.
    fn variable(self) -> &'static str {
        match self {
            Self::Proxy => "ALIPAY_SIDECAR_PROXY__LISTEN",
            Self::Webhook => "ALIPAY_SIDECAR_WEBHOOK__LISTEN",
            Self::Admin => "ALIPAY_SIDECAR_ADMIN__LISTEN",
        }
    }

    fn configured(self, config: &Config) -> &Listen {
        match self {
            Self::Proxy => &config.proxy.listen,
            Self::Webhook => &config.webhook.listen,
            Self::Admin => &config.admin.listen,
        }
    }
}

/// The sockets that were handed over; none where nobody did.
#[derive(Debug, Default)]
pub(crate) struct Activation(Vec<Handed>);

/// A socket that was handed over.
#[derive(Debug)]
struct Handed {
    /// How it is told in an error.
    label: String,
    role: Option<Role>,
    socket: Socket,
    address: Listen,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Activation {
    /// Takes over the sockets that were meant for this process, closes them to its children, and
    /// removes `LISTEN_FDS` and `LISTEN_PID` from the environment. To be called once, before there
    /// is a second thread.
    pub(crate) fn take() -> Result<Self, Failure> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        if variable("LISTEN_PID").parse() != Ok(std::process::id()) {
            return Ok(Self::default());
        }
        let (count, names) = (variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"));
        let mut handed = ListenFd::from_env();
        if count.parse() != Ok(handed.len()) || handed.len() == 0 {
            let found = Mismatch::of_text(&count, "the number of sockets that are handed over");
            return Err(fault("LISTEN_FDS", found));
        }
        let mut names = names.split(':');
        let sockets = (0..handed.len()).map(|index| {
            let name = names.next().unwrap_or_default();
            let label = match name {
                "" => format!("socket {} (descriptor {})", index + 1, index + 3),
                name => format!("socket {name:?} (descriptor {})", index + 3),
            };
            take(&mut handed, index, label, name)
        });
        let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
        for role in ROLES {
            if sockets.iter().filter(|s| s.role == Some(role)).count() > 1 {
                let found = format!("two sockets named {:?}", role.name());
                return Err(fault("LISTEN_FDNAMES", Mismatch::new(found, "one")));
            }
        }
        Ok(Self(sockets))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The configuration, with the sockets' addresses in the place of `listen`: whatever is checked
    /// of an address is checked of the one that is really listened on.
    pub(crate) fn configure(&mut self, context: &Context) -> Result<Config, Failure> {
        let config = context.load_to_serve(self.variables())?;
        if !self.find_roles(&config)? {
            return Ok(config);
        }
        context.load_to_serve(self.variables())
    }

    /// The sockets as listeners.
    pub(crate) fn listeners(self) -> std::io::Result<BoundElsewhere> {
        let mut listeners = BoundElsewhere::default();
        for handed in self.0 {
            let place = match handed.role {
                Some(Role::Proxy) => &mut listeners.proxy,
                Some(Role::Webhook) => &mut listeners.webhook,
                Some(Role::Admin) => &mut listeners.admin,
                // Whatever has no role has been refused.
                None => continue,
            };
            *place = Some(match handed.socket {
                Socket::Tcp(socket) => Listener::shared_tcp(socket)?,
                Socket::Unix(socket) => Listener::shared_unix(socket)?,
            });
        }
        Ok(listeners)
    }

    /// The variables that stand for their addresses.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let variable = |handed: &Handed| {
            let role = handed.role?;
            Some((role.variable().to_owned(), handed.address.to_string()))
        };
        self.0.iter().filter_map(variable).collect()
    }

    /// Finds out what sockets without a name of ours are for: by their address, or, where nothing
    /// else is known of any of three, by their order. Tells whether there were any.
    fn find_roles(&mut self, config: &Config) -> Result<bool, Failure> {
        if self.0.iter().all(|handed| handed.role.is_some()) {
            return Ok(false);
        }
        let mut free: Vec<Role> = ROLES.into_iter().filter(|role| !self.has(*role)).collect();
        for handed in self.0.iter_mut().filter(|handed| handed.role.is_none()) {
            let fits = |role: &Role| is_at(&handed.address, role.configured(config));
            if let [only] = *free.iter().copied().filter(fits).collect::<Vec<_>>() {
                handed.role = Some(only);
                free.retain(|role| *role != only);
            }
        }
        if free.len() == ROLES.len() && self.0.len() == ROLES.len() {
            for (handed, role) in self.0.iter_mut().zip(ROLES) {
                handed.role = Some(role);
            }
        }
        match self.0.iter().find(|handed| handed.role.is_none()) {
            None => Ok(true),
            Some(homeless) => Err(homeless.refusal(config, &free)),
        }
    }

    fn has(&self, role: Role) -> bool {
        self.0.iter().any(|handed| handed.role == Some(role))
    }
}

impl Handed {
    fn refusal(&self, config: &Config, free: &[Role]) -> Failure {
        let found = format!("{} on {}", self.label, self.address);
        let open: Vec<String> = free
            .iter()
            .map(|role| format!("`{}.listen` ({})", role.name(), role.configured(config)))
            .collect();
        let expected = match open.as_slice() {
            [] => "no further socket: every listener has one".to_owned(),
            open => format!("one on {}", open.join(" or ")),
        };
        let mismatch = Mismatch::new(found, expected).hint(
            "name it by FileDescriptorName=proxy, webhook or admin, or let `listen` say the same address",
        );
        fault("LISTEN_FDS", mismatch)
    }
}

fn take(handed: &mut ListenFd, index: usize, label: String, name: &str) -> Result<Handed, Failure> {
    let wrong = |what: &str| {
        let found = format!("{label}, which {what}");
        fault(
            "LISTEN_FDS",
            Mismatch::new(found, "a listening TCP or unix stream socket"),
        )
    };
    let (socket, address) = match handed.take_tcp_listener(index) {
        Ok(Some(socket)) => {
            let address = socket.local_addr();
            let address = address.map_err(|error| wrong(&format!("has no address ({error})")))?;
            (Socket::Tcp(socket), Listen::Tcp(address.to_string()))
        }
        _ => {
            let socket = handed.take_unix_listener(index);
            let Ok(Some(socket)) = socket else {
                return Err(wrong("isn't one"));
            };
            let address = socket.local_addr();
            let path = address.ok().and_then(|a| a.as_pathname().map(Into::into));
            let path = path.ok_or_else(|| wrong("has no path"))?;
            (Socket::Unix(socket), Listen::Unix(path))
        }
    };
    if !socket.listens() {
        return Err(wrong("doesn't listen (write Accept=no)"));
    }
    Ok(Handed {
        role: ROLES.into_iter().find(|role| role.name() == name),
        label,
        socket,
        address,
    })
}

impl Socket {
    fn listens(&self) -> bool {
        let fd = match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        };
        rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false)
    }
}

/// Whether a socket at `address` is what `configured` asks for; port 0 asks for any.
fn is_at(address: &Listen, configured: &Listen) -> bool {
    match (address, configured) {
        (Listen::Unix(address), Listen::Unix(configured)) => {
            let whole = |path: &std::path::PathBuf| std::fs::canonicalize(path).ok();
            address == configured
                || (whole(address).is_some() && whole(address) == whole(configured))
        }
        (Listen::Tcp(address), Listen::Tcp(configured)) => {
            let Ok(address) = address.parse::<std::net::SocketAddr>() else {
                return false;
            };
            let same = |asked: std::net::SocketAddr| {
                asked.ip() == address.ip() && (asked.port() == 0 || asked.port() == address.port())
            };
            // A name that can't be resolved is none of this host's addresses.
            configured
                .to_socket_addrs()
                .is_ok_and(|mut all| all.any(same))
        }
        _ => false,
    }
}

fn fault(variable: &str, mismatch: Mismatch) -> Failure {
    ConfigErrors::new(vec![Fault {
        variable: Some(variable.to_owned()),
        ..Fault::of_key("", mismatch)
    }])
    .into()
}
