//! A PostgreSQL server of a test's own, with the durability that a server has by default.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// The superuser of every such server.
const USER: &str = "postrider";
const PROGRAMS: [&str; 3] = ["initdb", "postgres", "pg_basebackup"];
/// The name of a standby.
const STANDBY: &str = "standby";
/// What starting and stopping may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between looks at a server that starts or ends.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Another process may take the free port first.
const PORTS_TRIED: u32 = 5;
/// As much as the tests need, and no more: several servers may run at once.
const SETTINGS: [(&str, &str); 5] = [
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "100"),
    ("shared_buffers", "32MB"),
    ("max_wal_size", "256MB"),
    // After a crash, one call in place of one a file.
    ("recovery_init_sync_method", "syncfs"),
];

/// A server with its data in a temporary folder. Ends with the test, if not before.
pub(crate) struct Cluster {
    folder: TempDir,
    programs: Programs,
    password: String,
    settings: Vec<(String, String)>,
    port: u16,
    server: Option<Child>,
}

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// Transactions are rolled back, clients are told, all is written.
    Fast,
    /// As in a crash: the next start recovers from the write-ahead log.
    Immediate,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With an empty database of this name.
    pub(crate) async fn with_database(database: &str) -> Self {
        let cluster = Self::start().await;
        cluster.create_database(database, None).await;
        cluster
    }

    /// With settings as in `postgresql.conf`, over those of every such server.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let programs = Programs::find();
        let folder = tempfile::tempdir().expect("a folder");
        programs.give(folder.path());
        let password = uuid::Uuid::new_v4().simple().to_string();
        let password_file = folder.path().join("password");
        fs::write(&password_file, &password).expect("the password can be written");
        programs.give(&password_file);
        let made = programs
            .command("initdb", folder.path())
            // The files need not outlive a crash of the machine; what the server writes later, it syncs.
            .args(["--no-sync", "--locale=C", "--encoding=UTF8", "--auth=scram-sha-256", "--username", USER])
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(folder.path().join("data"))
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let settings = SETTINGS.iter().chain(settings).map(owned).collect();
        let mut cluster = Self { folder, programs, password, settings, port: 0, server: None };
        cluster.run_on_free_port().await;
        cluster
    }

    async fn run_on_free_port(&mut self) {
        for _ in 0..PORTS_TRIED {
            self.port = free_port();
            if self.try_run().await {
                return;
            }
        }
        panic!("the server does not start:\n{}", self.log());
    }

    /// A copy of `primary` that follows it, as `standby`, and answers what changes nothing.
    pub(crate) async fn standby_of(primary: &Self) -> Self {
        let programs = Programs::find();
        let folder = tempfile::tempdir().expect("a folder");
        programs.give(folder.path());
        let copied = programs
            .command("pg_basebackup", folder.path())
            .args(["--no-sync", "--checkpoint=fast", "--write-recovery-conf", "--dbname", &primary.url("postgres")])
            .arg("--pgdata")
            .arg(folder.path().join("data"))
            .output()
            .expect("pg_basebackup runs");
        assert!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
        let (password, port) = (primary.password.clone(), primary.port);
        let source = format!("host=127.0.0.1 port={port} user={USER} password={password} application_name={STANDBY}");
        let mut settings = primary.settings.clone();
        settings.push(("primary_conninfo".to_owned(), source));
        let mut standby = Self { folder, programs, password, settings, port: 0, server: None };
        standby.run_on_free_port().await;
        standby
    }

    /// From now on no commit is answered before `standby` has it, too.
    pub(crate) async fn wait_for_standby(&self) {
        self.execute("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")).await;
        self.execute("postgres", "SELECT pg_reload_conf()").await;
        let client = self.connect("postgres").await;
        let began = Instant::now();
        while client
            .query("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'", &[])
            .await
            .expect("rows")
            .is_empty()
        {
            assert!(began.elapsed() < PATIENCE, "the standby does not follow:\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Makes a standby the primary, and returns when it is.
    pub(crate) async fn promote(&self) {
        self.execute("postgres", "SELECT pg_promote()").await;
    }

    /// Makes a file or folder belong to the user that the server runs as.
    pub(crate) fn give(&self, path: &Path) {
        self.programs.give(path);
    }

    /// Where `database` is, with name and password.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The password in [`Cluster::url`], which no message may show.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// What the server has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A client of a database. Its connection ends with it.
    pub(crate) async fn connect(&self, database: &str) -> Client {
        self.try_connect(database).await.unwrap_or_else(|error| panic!("{database}: {error}\n{}", self.log()))
    }

    async fn try_connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements in a database.
    pub(crate) async fn execute(&self, database: &str, statements: &str) {
        let client = self.connect(database).await;
        client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// From now on it answers over TLS to who wants that, with this certificate and key in PEM.
    pub(crate) async fn use_tls(&self, certificate: &str, key: &str) {
        for (setting, text) in [("ssl_cert_file", certificate), ("ssl_key_file", key)] {
            let path = self.folder.path().join(setting);
            fs::write(&path, text).expect("the file can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it can be made private");
            self.give(&path);
            self.execute("postgres", &format!("ALTER SYSTEM SET {setting} = '{}'", path.display())).await;
        }
        self.execute("postgres", "ALTER SYSTEM SET ssl = on").await;
        self.execute("postgres", "SELECT pg_reload_conf()").await;
    }

    /// Makes a database: an empty one, or as `template` is, to which nobody may be connected.
    pub(crate) async fn create_database(&self, name: &str, template: Option<&str>) {
        let template = template.unwrap_or("template0");
        self.execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
    }

    /// Ends every connection to a database from the server's side, as a restart of it or a failing network would.
    pub(crate) async fn disconnect(&self, database: &str) {
        let statement = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = '{database}' AND pid != pg_backend_pid()"
        );
        self.execute("postgres", &statement).await;
    }

    pub(crate) fn stop(&mut self, how: Shutdown) {
        let Some(mut server) = self.server.take() else { return };
        let signal = match how {
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        };
        // It may have ended by itself.
        let _ = kill_process(Pid::from_child(&server), signal);
        let began = Instant::now();
        while server.try_wait().expect("the server can be waited for").is_none() {
            if began.elapsed() > PATIENCE {
                let _ = server.kill();
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Starts a server that was stopped, on the same port.
    pub(crate) async fn run_again(&mut self) {
        assert!(self.server.is_none(), "it is running");
        assert!(self.try_run().await, "the server does not start:\n{}", self.log());
    }

    /// Starts the server and waits until it lets clients in; `false`: it ended.
    async fn try_run(&mut self) -> bool {
        let log = File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
        let mut command = self.programs.command("postgres", self.folder.path());
        command.arg("-D").arg(self.folder.path().join("data")).arg("-k").arg(self.folder.path());
        command.args(["-p", &self.port.to_string()]);
        for (name, value) in &self.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("postgres runs");
        let began = Instant::now();
        loop {
            // Only its own password lets us in, so that another server on the port is not taken for it.
            if self.try_connect("postgres").await.is_ok() {
                self.server = Some(server);
                return true;
            }
            if server.try_wait().expect("the server can be waited for").is_some() {
                return false;
            }
            assert!(began.elapsed() < PATIENCE, "the server lets nobody in:\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody reads the data again.
        self.stop(Shutdown::Immediate);
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// PostgreSQL's programs, and as whom they run.
struct Programs {
    folder: PathBuf,
    /// User and group: the programs refuse to run as root.
    user: Option<(u32, u32)>,
}

impl Programs {
    #[expect(clippy::disallowed_methods, reason = "where programs are is for the environment to say")]
    fn find() -> Self {
        let in_path =
            std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
        // Debian keeps those of each version in a folder of its own.
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        let mut versions: Vec<_> = versions.map(|entry| entry.path()).filter(|path| version(path).is_some()).collect();
        versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
        let folder = in_path
            .chain(versions.into_iter().map(|path| path.join("bin")))
            .find(|folder| PROGRAMS.iter().all(|program| folder.join(program).is_file()))
            .expect("PostgreSQL is missing: install Debian's package postgresql");
        let user = getuid().is_root().then(|| (id_of_postgres("-u"), id_of_postgres("-g")));
        Self { folder, user }
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.current_dir(folder);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Makes a file belong to the user that the programs run as.
    fn give(&self, path: &Path) {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).expect("root may give files away");
        }
    }
}

/// `kind`: `-u` for the user, `-g` for its group.
fn id_of_postgres(kind: &str) -> u32 {
    let output = Command::new("id").args([kind, "postgres"]).output().expect("id runs");
    let id = String::from_utf8_lossy(&output.stdout).trim().parse();
    id.expect("root needs the user `postgres`, which Debian's package makes")
}
