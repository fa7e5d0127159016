export { RestartMonitor, type RestartMonitorOptions } from "./monitor.ts";
