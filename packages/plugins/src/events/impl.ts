export { createEventExchange, type EventExchangeOptions } from "./exchange.ts";
