/**
 * Every section and key of containerd 2.3.4's configuration with its default. It is the schema as well: a key that is
 * not here is refused, a value's type is its default's. Sections of plugins that this version does not have yet are
 * known, so that a node's file is read, and named at start as being without effect.
 */
import { formatPlatform, hostPlatform } from "@stevedore/oci/platform";
import type { TomlTable } from "./types.ts";

/** Top-level keys outside `plugins`. */
export function topLevelDefaults(): TomlTable {
  return {
    version: 4,
    root: "/var/lib/containerd",
    state: "/run/containerd",
    temp: "",
    disabled_plugins: [],
    required_plugins: [],
    oom_score: 0,
    imports: ["/etc/containerd/conf.d/*.toml"],
    debug: { level: "", format: "", log_trace_id: false },
    plugins: {},
    cgroup: { path: "" },
    timeouts: {
      "io.containerd.timeout.bolt.open": "0s",
      "io.containerd.timeout.cri.defercleanup": "1m0s",
      "io.containerd.timeout.metrics.shimstats": "2s",
      "io.containerd.timeout.shim.cleanup": "5s",
      "io.containerd.timeout.shim.load": "5s",
      "io.containerd.timeout.shim.shutdown": "3s",
      "io.containerd.timeout.task.state": "2s",
    },
    stream_processors: {
      "io.containerd.ocicrypt.decoder.v1.tar": {
        accepts: ["application/vnd.oci.image.layer.v1.tar+encrypted"],
        returns: "application/vnd.oci.image.layer.v1.tar",
        path: "ctd-decoder",
        args: ["--decryption-keys-path", "/etc/containerd/ocicrypt/keys"],
        env: ["OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"],
      },
      "io.containerd.ocicrypt.decoder.v1.tar.gzip": {
        accepts: ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"],
        returns: "application/vnd.oci.image.layer.v1.tar+gzip",
        path: "ctd-decoder",
        args: ["--decryption-keys-path", "/etc/containerd/ocicrypt/keys"],
        env: ["OCICRYPT_KEYPROVIDER_CONFIG=/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"],
      },
    },
  };
}

/** Top-level keys that may be given and have no default value in a dump. */
export function optionalTopLevel(): TomlTable {
  return { proxy_plugins: {}, plugin_dir: "" };
}

/** Keys of one entry of `proxy_plugins`. */
export function proxyPluginKeys(): TomlTable {
  return { type: "", address: "", platform: "", exports: {}, capabilities: [] };
}

/** Sections of plugins, by full name. */
export function pluginDefaults(): TomlTable {
  return {
    "io.containerd.cri.v1.images": {
      snapshotter: "overlayfs",
      disable_snapshot_annotations: true,
      discard_unpacked_layers: false,
      max_concurrent_downloads: 3,
      concurrent_layer_fetch_buffer: 0,
      image_pull_progress_timeout: "5m0s",
      image_pull_with_sync_fs: false,
      stats_collect_period: 10,
      use_local_image_pull: false,
      pinned_images: { sandbox: "registry.k8s.io/pause:3.10.2" },
      registry: { config_path: "" },
      image_decryption: { key_model: "node" },
    },
    "io.containerd.cri.v1.runtime": {
      enable_selinux: false,
      selinux_category_range: 1024,
      max_container_log_line_size: 16384,
      disable_apparmor: false,
      restrict_oom_score_adj: false,
      disable_proc_mount: false,
      unset_seccomp_profile: "",
      tolerate_missing_hugetlb_controller: true,
      disable_hugetlb_controller: true,
      device_ownership_from_security_context: false,
      ignore_image_defined_volumes: false,
      netns_mounts_under_state_dir: false,
      enable_unprivileged_ports: true,
      enable_unprivileged_icmp: true,
      enable_cdi: true,
      cdi_spec_dirs: ["/etc/cdi", "/var/run/cdi"],
      drain_exec_sync_io_timeout: "0s",
      ignore_deprecation_warnings: [],
      stats_collect_period: "",
      stats_retention_period: "",
      enable_criu: true,
      enable_experimental_restore_via_create: false,
      containerd: {
        default_runtime_name: "runc",
        ignore_blockio_not_enabled_errors: false,
        ignore_rdt_not_enabled_errors: false,
        runtimes: {},
      },
      cni: {
        bin_dir: "",
        bin_dirs: ["/opt/cni/bin"],
        conf_dir: "/etc/cni/net.d",
        max_conf_num: 1,
        setup_serially: false,
        conf_template: "",
        ip_pref: "",
        use_internal_loopback: false,
      },
    },
    "io.containerd.differ.v1.erofs": { mkfs_options: [], enable_tar_index: false, enable_dmverity: false },
    "io.containerd.gc.v1.scheduler": {
      pause_threshold: 0.02,
      deletion_threshold: 0,
      mutation_threshold: 100,
      schedule_delay: "0s",
      startup_delay: "100ms",
    },
    "io.containerd.grpc.v1.cri": {
      disable_tcp_service: true,
      stream_server_address: "127.0.0.1",
      stream_server_port: "0",
      stream_idle_timeout: "4h0m0s",
      enable_tls_streaming: false,
      x509_key_pair_streaming: { tls_cert_file: "", tls_key_file: "" },
    },
    "io.containerd.image-verifier.v1.bindir": {
      bin_dir: "/opt/containerd/image-verifier/bin",
      max_verifiers: 10,
      per_verifier_timeout: "10s",
    },
    "io.containerd.internal.v1.opt": { path: "/opt/containerd" },
    "io.containerd.internal.v1.tracing": {},
    "io.containerd.metadata.v1.bolt": { content_sharing_policy: "shared", no_sync: false },
    "io.containerd.metrics.v1.grpc-prometheus": { grpc_histogram: false },
    "io.containerd.monitor.container.v1.restart": { interval: "10s" },
    "io.containerd.monitor.task.v1.cgroups": { no_prometheus: false },
    "io.containerd.mount-handler.v1.erofs": {},
    "io.containerd.nri.v1.nri": {
      disable: false,
      socket_path: "/var/run/nri/nri.sock",
      plugin_path: "/opt/nri/plugins",
      plugin_config_path: "/etc/nri/conf.d",
      plugin_registration_timeout: "5s",
      plugin_request_timeout: "2s",
      disable_connections: false,
      default_validator: {
        enable: false,
        reject_oci_hook_adjustment: false,
        reject_runtime_default_seccomp_adjustment: false,
        reject_unconfined_seccomp_adjustment: false,
        reject_custom_seccomp_adjustment: false,
        reject_namespace_adjustment: false,
        reject_sysctl_adjustment: false,
        required_plugins: [],
        tolerate_missing_plugins_annotation: "",
      },
    },
    "io.containerd.runtime.v2.task": { platforms: [formatPlatform(hostPlatform())] },
    "io.containerd.server.v1.debug": { address: "", uid: 0, gid: 0 },
    "io.containerd.server.v1.grpc": {
      address: "/run/containerd/containerd.sock",
      uid: 0,
      gid: 0,
      max_recv_message_size: 16777216,
      max_send_message_size: 16777216,
    },
    "io.containerd.server.v1.grpc-tcp": {
      address: "",
      tls_ca: "",
      tls_cert: "",
      tls_key: "",
      tls_common_name: "",
      max_recv_message_size: 16777216,
      max_send_message_size: 16777216,
    },
    "io.containerd.server.v1.metrics": { address: "" },
    "io.containerd.server.v1.ttrpc": { address: "/run/containerd/containerd.sock.ttrpc", uid: 0, gid: 0 },
    "io.containerd.service.v1.diff-service": { default: ["walking"], sync_fs: false },
    "io.containerd.service.v1.tasks-service": { blockio_config_file: "", rdt_config_file: "" },
    "io.containerd.shim.v1.manager": { env: [], socket_dir: "" },
    "io.containerd.snapshotter.v1.blockfile": {
      root_path: "",
      scratch_file: "",
      fs_type: "",
      mount_options: [],
      recreate_scratch: false,
    },
    "io.containerd.snapshotter.v1.erofs": {
      root_path: "",
      ovl_mount_options: [],
      enable_fsverity: false,
      set_immutable: false,
      default_size: "",
      dmverity_mode: "",
    },
    "io.containerd.snapshotter.v1.native": { root_path: "" },
    "io.containerd.snapshotter.v1.overlayfs": {
      root_path: "",
      upperdir_label: false,
      sync_remove: false,
      slow_chown: false,
      mount_options: [],
    },
    // Ours: how much of the log of events is kept, and 0 events for none.
    "stevedore.registry.v1.endpoint": {
      address: "",
      namespaces: ["default"],
      writable: false,
      tls_cert: "",
      tls_key: "",
      tls_ca: "",
      htpasswd: "",
    },
    "stevedore.events.v1.log": { max_events: 50_000, max_age: "168h0m0s", max_bytes: 67_108_864 },
    "io.containerd.tracing.processor.v1.otlp": {},
    "io.containerd.transfer.v1.local": {
      max_concurrent_downloads: 3,
      concurrent_layer_fetch_buffer: 0,
      max_concurrent_uploaded_layers: 3,
      check_platform_supported: false,
      config_path: "",
      max_concurrent_unpacks: 1,
    },
  };
}

/** Keys that are valid without having a default; a path that ends in `.**` opens everything below it to the user. */
export const OPEN_PATHS: readonly string[] = [
  "timeouts.**",
  "stream_processors.**",
  "proxy_plugins.**",
  // Ours: what became of runtime v1's shim_debug.
  "plugins.io.containerd.shim.v1.manager.debug",
  // Ours: docs/decisions/0111-adoption.md.
  "plugins.io.containerd.shim.v1.manager.stevedore.**",
  "plugins.io.containerd.cri.v1.images.pinned_images.**",
  "plugins.io.containerd.cri.v1.images.registry.**",
  "plugins.io.containerd.cri.v1.images.runtime_platforms.**",
  "plugins.io.containerd.cri.v1.runtime.containerd.runtimes.**",
  "plugins.io.containerd.internal.v1.tracing.**",
  "plugins.io.containerd.tracing.processor.v1.otlp.**",
  "plugins.io.containerd.transfer.v1.local.registry.**",
  "plugins.io.containerd.transfer.v1.local.unpack_config",
  "plugins.io.containerd.snapshotter.v1.devmapper.**",
  "plugins.io.containerd.snapshotter.v1.btrfs.**",
  "plugins.io.containerd.snapshotter.v1.zfs.**",
  "plugins.io.containerd.snapshotter.v1.aufs.**",
  "plugins.io.containerd.grpc.v1.cri.**",
];
