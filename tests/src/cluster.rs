//! A throw-away PostgreSQL cluster.
//!
//! Uses the programs in the folder that the environment variable `ESR_PG_BIN` names (made by
//! `scripts/private-postgres.sh`). PostgreSQL refuses to run as root, so when the harness is root the server runs as the
//! user `postgres`, or `nobody` where there is none.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User, chown, geteuid},
};

use crate::processes;

/// How to stop a cluster; the words are `pg_ctl`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Waits for sessions to end.
    Smart,
    /// Ends sessions, then checkpoints.
    Fast,
    /// Quits at once; recovery runs at the next start.
    Immediate,
}

/// What a new cluster should be like.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines for `postgresql.conf`.
    pub settings: Vec<(String, String)>,
    /// Where to make it; a scratch folder that is removed with the cluster if `None`.
    pub folder: Option<PathBuf>,
}

impl Options {
    /// Adds a line to `postgresql.conf`; quoting is done here.
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.into(), value.to_string()));
        self
    }
}

/// A running (or stopped, or crashed) cluster.
pub struct Cluster {
    bin: PathBuf,
    folder: PathBuf,
    /// Short, because a socket's path may have 107 bytes.
    sockets: PathBuf,
    scratch: bool,
    owner: Option<User>,
}

impl Cluster {
    /// Creates and starts a cluster.
    pub fn start(options: Options) -> Result<Self> {
        let mut cluster = Self::create(options)?;
        cluster.start_again()?;
        Ok(cluster)
    }

    /// Creates a cluster without starting it.
    pub fn create(options: Options) -> Result<Self> {
        let bin = programs()?;
        let owner = server_user()?;
        let scratch = options.folder.is_none();
        let folder = match options.folder {
            Some(folder) => folder,
            None => scratch_folder(owner.as_ref())?,
        };
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let sockets = tempfile::Builder::new().prefix("esr-").tempdir_in("/tmp")?.keep();
        let cluster = Self { bin, folder, sockets, scratch, owner };
        cluster.give_to_owner(&cluster.folder)?;
        cluster.give_to_owner(&cluster.sockets)?;
        fs::set_permissions(&cluster.sockets, fs::Permissions::from_mode(0o700))?;
        if !cluster.data().join("PG_VERSION").exists() {
            let data = cluster.data();
            let mut initdb = cluster.command("initdb");
            initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
            run(initdb.arg("--pgdata").arg(&data))?;
        }
        let mut lines = vec![
            ("listen_addresses".to_string(), String::new()),
            ("unix_socket_directories".into(), cluster.sockets.display().to_string()),
            ("unix_socket_permissions".into(), "0700".into()),
            ("fsync".into(), "off".into()),
            ("log_line_prefix".into(), "%m [%p] ".into()),
        ];
        lines.extend(options.settings);
        cluster.write_settings("harness.conf", &lines)?;
        let main = cluster.data().join("postgresql.conf");
        let include = "include_if_exists 'harness.conf'\ninclude_if_exists 'extra.conf'\n";
        let text = fs::read_to_string(&main)?;
        if !text.contains(include) {
            fs::write(&main, text + include)?;
        }
        Ok(cluster)
    }

    /// Starts a stopped or crashed cluster and waits until it accepts connections.
    pub fn start_again(&mut self) -> Result<()> {
        let log = self.log_path();
        let mut command = self.command("pg_ctl");
        command.args(["start", "--wait", "--timeout=120", "--silent"]).arg("--pgdata").arg(self.data());
        command.arg("--log").arg(&log);
        // pg_ctl's child keeps whatever it inherits open, so it must not inherit a pipe that someone waits on.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "the server did not start; its log ends:\n{}", tail(&self.log(), 30));
        Ok(())
    }

    /// Stops the cluster.
    pub fn stop(&self, how: Stop) -> Result<()> {
        let mode = match how {
            Stop::Smart => "smart",
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        let mut command = self.command("pg_ctl");
        command.args(["stop", "--wait", "--timeout=120", "--silent", "--mode", mode]);
        run(command.arg("--pgdata").arg(self.data()))
    }

    /// Kills the postmaster without a word, as a crash of the machine would, and waits until its children are gone too.
    pub fn kill_postmaster(&self) -> Result<()> {
        let pid = self.postmaster().context("the cluster is not running")?;
        let children = processes::descendants(pid);
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        wait_until(Duration::from_secs(30), || {
            !processes::is_running(pid) && children.iter().all(|child| !processes::is_running(child.pid))
        })
        .with_context(|| {
            let left: Vec<_> = children.iter().filter(|child| processes::is_running(child.pid)).collect();
            format!("processes outlive their postmaster: {left:?}")
        })?;
        // Until its parent has reaped it, the dead postmaster's id looks alive to the next one, which then refuses to
        // start. Some init programs take their time; the harness knows the process is dead and says so.
        let entry = PathBuf::from(format!("/proc/{pid}"));
        if wait_until(Duration::from_secs(2), || !entry.exists()).is_err() {
            fs::remove_file(self.data().join("postmaster.pid"))?;
        }
        Ok(())
    }

    /// The postmaster's process id, if it runs.
    pub fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        processes::is_running(pid).then_some(pid)
    }

    /// The cluster's `esr-embedder` processes.
    pub fn embedders(&self) -> Vec<i32> {
        let Some(postmaster) = self.postmaster() else { return Vec::new() };
        let children = processes::descendants(postmaster);
        children.iter().filter(|child| child.command.contains("esr-embedder")).map(|child| child.pid).collect()
    }

    /// A session on the database `postgres`.
    pub fn connect(&self) -> Result<postgres::Client> {
        self.connect_to("postgres")
    }

    /// A session on a database.
    pub fn connect_to(&self, database: &str) -> Result<postgres::Client> {
        Ok(self.config(database).connect(postgres::NoTls)?)
    }

    /// The parameters of a connection, to change before connecting.
    pub fn config(&self, database: &str) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host_path(&self.sockets).port(5432).user("postgres").dbname(database);
        config
    }

    /// `psql` on a database, reading a script from a pipe, with the time zone and encoding that expected output has.
    pub fn psql_command(&self, database: &str) -> Command {
        let mut command = self.command("psql");
        command.args(["-X", "-h"]).arg(&self.sockets).args(["-U", "postgres", "-d", database]);
        command.env("PGCLIENTENCODING", "UTF8").env("PGTZ", "UTC").stdin(Stdio::piped());
        command
    }

    /// Runs `psql` on a database with a script on its standard input; returns everything it printed, errors last.
    pub fn psql(&self, database: &str, arguments: &[&str], script: &str) -> Result<String> {
        use std::io::Write;
        let mut command = self.psql_command(database);
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().expect("piped above");
        // Written from beside, or a script longer than a pipe's buffer would wait for its own output to be read.
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(script.as_bytes()));
            child.wait_with_output()
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    }

    /// Replaces the settings on top of those the cluster was made with; takes effect at a reload or restart.
    pub fn override_settings(&self, lines: &[(&str, &str)]) -> Result<()> {
        let lines: Vec<_> = lines.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.write_settings("extra.conf", &lines)
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The folder that holds the data directory and the log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder that holds the socket.
    pub fn socket_folder(&self) -> &Path {
        &self.sockets
    }

    /// The folder of the server's programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Everything the server wrote to its log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Gives a file or folder that the harness made to the user the server runs as.
    pub fn give_to_owner(&self, path: &Path) -> Result<()> {
        if let Some(owner) = &self.owner {
            chown(path, Some(owner.uid), Some(owner.gid)).with_context(|| format!("giving away {}", path.display()))?;
        }
        Ok(())
    }

    /// One of the server's programs, to be run as the server's user.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env("LC_ALL", "C.UTF-8").env_remove("PGOPTIONS").current_dir("/");
        if let Some(owner) = &self.owner {
            // With a uid set, the standard library drops root's supplementary groups too.
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw()).env("HOME", "/tmp");
        }
        command
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    fn write_settings(&self, file: &str, lines: &[(String, String)]) -> Result<()> {
        let text: String =
            lines.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect();
        let path = self.data().join(file);
        fs::write(&path, text)?;
        self.give_to_owner(&path)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.postmaster().is_some() && self.stop(Stop::Immediate).is_err() {
            let _ = self.kill_postmaster();
        }
        if std::thread::panicking() {
            eprintln!("the server's log ends:\n{}", tail(&self.log(), 40));
        }
        let _ = fs::remove_dir_all(&self.sockets);
        if self.scratch && std::env::var_os("ESR_KEEP_CLUSTERS").is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Polls until a condition holds.
///
/// # Errors
/// If it does not within `limit`.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !condition() {
        ensure!(start.elapsed() < limit, "waited {limit:?} in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn programs() -> Result<PathBuf> {
    let Some(bin) = std::env::var_os("ESR_PG_BIN") else {
        bail!("ESR_PG_BIN is not set: run `make test-server`, or set it to what scripts/private-postgres.sh prints")
    };
    let bin = PathBuf::from(bin);
    ensure!(bin.join("postgres").exists(), "ESR_PG_BIN = {} holds no postgres", bin.display());
    Ok(bin)
}

/// `None`: the server may run as whoever runs the harness.
fn server_user() -> Result<Option<User>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("running as root, and there is neither a user 'postgres' nor 'nobody' to run the server as")
}

/// Whether the server runs as another user than this process.
pub fn runs_as_other_user() -> bool {
    geteuid().is_root()
}

/// `folder` if the server's user can reach it, else a folder of its own under `/var/tmp`, the same one every time.
pub fn reachable_folder(folder: &Path) -> PathBuf {
    let above = folder.parent().unwrap_or(folder);
    if !runs_as_other_user() || everyone_may_enter(above) {
        return folder.to_path_buf();
    }
    let name: String = folder.to_string_lossy().chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    Path::new("/var/tmp").join(format!("esr{name}"))
}

/// Under `target/` where the server's user can reach it, else under `/var/tmp`.
fn scratch_folder(owner: Option<&User>) -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clusters");
    let base = match fs::create_dir_all(&target) {
        Ok(()) if owner.is_none() || everyone_may_enter(&target) => target.canonicalize()?,
        _ => PathBuf::from("/var/tmp"),
    };
    Ok(tempfile::Builder::new().prefix("esr-cluster-").tempdir_in(base)?.keep())
}

fn everyone_may_enter(folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    folder.ancestors().all(|part| fs::metadata(part).is_ok_and(|data| data.permissions().mode() & 0o001 != 0))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    ensure!(
        output.status.success(),
        "{:?} failed:\n{}{}",
        command.get_program(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
