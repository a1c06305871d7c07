//! A PostgreSQL server of the test's own: in a temporary directory, on a free port, gone with the test.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::eventually;

/// Who runs the server where the test is root, which PostgreSQL refuses to be: nobody and nogroup.
const NOBODY: u32 = 65_534;
pub const PASSWORD: &str = "a secret's";

pub struct Server {
    directory: TempDir,
    port: u16,
    settings: Vec<String>,
    process: Option<Child>,
}

/// The newest of Debian's servers, or what is in the path.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions.map(|version| version.path()).max_by_key(|path| number(path));
    newest.map(|version| version.join("bin").join(name)).unwrap_or_else(|| name.into())
}

impl Server {
    /// With some more settings, as `name=value`.
    pub fn new(settings: &[&str]) -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut server = Server { directory, port, settings, process: None };
        fs::write(server.path("password"), PASSWORD).expect("written");
        for path in [server.directory.path(), &server.path("password")] {
            if server.is_root() {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("given away");
            }
        }
        let mut init = server.command("initdb");
        init.args(["--no-sync", "--username=grid", "--auth=scram-sha-256", "--encoding=UTF8"]);
        init.arg("--locale=C.UTF-8").arg(format!("--pwfile={}", server.path("password").display()));
        let init = init
            .arg("-D")
            .arg(server.path("data"))
            .output()
            .expect("initdb runs: scripts/setup --tests");
        assert!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
        server.start();
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn is_root(&self) -> bool {
        fs::metadata("/proc/self").expect("it is").uid() == 0
    }

    /// One of PostgreSQL's programs, as who may run it.
    fn command(&self, name: &str) -> Command {
        let mut command = self.ended_with_test();
        command.arg(program(name));
        command
    }

    /// What runs its arguments, not as root, until the test ends.
    fn ended_with_test(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).current_dir(self.directory.path());
        if self.is_root() {
            let nobody = NOBODY.to_string();
            command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
        }
        command
    }

    pub fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.path("log"));
        let log = log.expect("a log");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.path("data")).args(["-p", &self.port.to_string()]);
        command.arg("-k").arg(self.directory.path()).args(["-c", "fsync=off"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        self.process = Some(command.stdin(Stdio::null()).stderr(log).spawn().expect("started"));
        eventually("the server answers", || self.psql("SELECT 1").status.success());
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let id = process.id().to_string();
        assert!(Command::new("kill").args(["-QUIT", &id]).status().expect("kill").success());
        process.wait().expect("ended");
    }

    /// Has the server and its processes for connections stand still.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Has them go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.process.as_ref().expect("it runs").id().to_string();
        // Its children first: it would have others take their place.
        let _ = Command::new("pkill").args([signal, "-P", &id]).status().expect("pkill runs");
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill").success());
    }

    fn psql(&self, sql: &str) -> std::process::Output {
        let mut psql = Command::new(program("psql"));
        psql.args([
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            "grid",
            "-d",
            "postgres",
        ]);
        psql.args(["-p", &self.port.to_string(), "-c", sql]).env("PGPASSWORD", PASSWORD);
        psql.output().expect("psql runs")
    }

    /// What a statement says, row by row, its columns with `|` between.
    #[track_caller]
    pub fn ask(&self, sql: &str) -> Vec<String> {
        let said = self.psql(sql);
        assert!(said.status.success(), "{sql}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, without TLS.
    pub fn url(&self) -> String {
        format!("postgresql://grid@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// Gives a file to the server that nobody else may read, as it wants its key.
    pub fn give(&self, name: &str) {
        let path = self.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("made private");
        if self.is_root() {
            chown(&path, Some(NOBODY), Some(NOBODY)).expect("given away");
        }
    }
}

/// PgBouncer before a server: each transaction may run on another connection.
pub struct Pooler {
    port: u16,
    process: Child,
}

impl Pooler {
    pub fn new(server: &Server) -> Pooler {
        let port = free_port();
        let users = server.path("users");
        fs::write(&users, format!("\"grid\" \"{PASSWORD}\"\n")).expect("written");
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
             pool_mode = transaction\ndefault_pool_size = 3\n",
            server.port,
            users.display()
        );
        fs::write(server.path("pooler"), settings).expect("written");
        server.give("users");
        server.give("pooler");
        let mut command = server.ended_with_test();
        command.arg("/usr/sbin/pgbouncer").arg("-q").arg(server.path("pooler"));
        let process = command.stderr(Stdio::null()).spawn().expect("started");
        eventually("the pooler listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Pooler { port, process }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
    }
}

fn free_port() -> u16 {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    port.expect("a free port").port()
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.resume();
            self.kill();
        }
    }
}
