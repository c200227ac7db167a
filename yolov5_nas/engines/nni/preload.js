// Loaded into NNI's manager before its own code (NODE_OPTIONS=--require). It repairs what NNI 3.0 has no option for:
// 1. every socket listens on the loopback address alone;
// 2. routes that reach other hosts, read files or open further ports answer 403;
// 3. a trial gets the parameters that were recorded for it (NNI hands them out in the order in which trials ask);
// 4. a metric that comes before its trial is registered waits for it (NNI drops it);
// 5. the manager ends when the search that started it was killed;
// 6. the search may take its time to connect, on a busy machine (NNI gives it 10 s, and then starts no trial ever);
// 7. the versions that it notes come from the search (NNI starts a Python that imports NNI, for 2 s, and waits for it).
'use strict';
const http = require('http');
const Module = require('module');
const net = require('net');

const host = process.env.YOLOV5_NAS_HOST || '127.0.0.1';

// 1. ---------------------------------------------------------------------------------------------------------------
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
    const [first] = args;
    if (typeof first === 'number' || (typeof first === 'string' && /^\d+$/.test(first))) {
        args.splice(1, typeof args[1] === 'string' ? 1 : 0, host);
    } else if (first && typeof first === 'object' && 'port' in first) {
        args[0] = { ...first, host };
    }
    return listen.apply(this, args);
};

// 2. ---------------------------------------------------------------------------------------------------------------
// netron: a proxy to netron.app, which ends the manager where that can't be reached. tensorboard: would start one with
// --bind_all. trial-file: reads any file of this user by `..%2f`.
const refused = /^\/+(netron|api\/+v1\/+nni\/+(trial-file|tensorboard))(\/|$)/;
const own = /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/; // another name is a web page that rebound its DNS name to us

function isRefused(request) {
    let path;
    try {
        path = decodeURIComponent(request.url.split('?')[0]).toLowerCase(); // express matches routes in any case
    } catch {
        return true;
    }
    return refused.test(path) || (host === '127.0.0.1' && !own.test(request.headers.host || ''));
}

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, response) {
    if (event === 'request' && isRefused(request)) {
        response.writeHead(403, { 'Content-Type': 'text/plain' });
        response.end('yolov5-nas has closed this route\n');
        return true;
    }
    if (event === 'upgrade' && isRefused(request)) {
        response.destroy(); // the socket
        return true;
    }
    return emit.apply(this, arguments);
};

// 3. ---------------------------------------------------------------------------------------------------------------
function pairRightly(V3asV1) {
    const submit = V3asV1.prototype.submitTrialJob;
    V3asV1.prototype.submitTrialJob = async function (form) {
        const trial = await submit.call(this, form);
        const index = this.parameters.indexOf(form.hyperParameters.value);
        if (index >= 0) {
            this.parameters.splice(index, 1);
            this.allocatedParameters.set(trial.id, form.hyperParameters.value);
        }
        return trial;
    };
}

// 4. ---------------------------------------------------------------------------------------------------------------
function waitForTrial(NNIManager) {
    const onMetric = NNIManager.prototype.onTrialJobMetrics;
    NNIManager.prototype.onTrialJobMetrics = async function (metric) {
        for (let i = 0; i < 1200 && !this.trialJobs.has(metric.id); i++) {
            await new Promise((resolve) => setTimeout(resolve, 50));
        }
        return onMetric.call(this, metric);
    };
}

// 6. ---------------------------------------------------------------------------------------------------------------
function waitForSearch(tuner) {
    const server = tuner.getTunerServer();
    server.init = () => server.connect.promise;
}

// 7. ---------------------------------------------------------------------------------------------------------------
function knowVersions(script) {
    const run = script.runPythonModule;
    script.runPythonModule = function (name, ...args) {
        const known = name.endsWith('.collect_version_info') && process.env.YOLOV5_NAS_VERSIONS;
        return known ? Promise.resolve(known) : run(name, ...args);
    };
}

const load = Module._load;
const done = new Set();
Module._load = function (...args) {
    const loaded = load.apply(this, args);
    const repairs = { NNIManager: waitForTrial };
    if (!process.env.YOLOV5_NAS_UNPAIRED) repairs.V3asV1 = pairRightly; // the variable lets a test see what NNI does
    for (const [name, repair] of Object.entries(repairs)) {
        if (loaded && typeof loaded === 'object' && /core.nnimanager|v3.compat/.test(args[0]) && loaded[name]) {
            if (!done.has(name)) repair(loaded[name]);
            done.add(name);
        }
    }
    for (const [name, repair] of [[/common.pythonScript/, knowVersions], [/tuner_command_channel$/, waitForSearch]]) {
        if (name.test(args[0]) && loaded && !done.has(loaded)) {
            repair(loaded);
            done.add(loaded);
        }
    }
    return loaded;
};

// 5. ---------------------------------------------------------------------------------------------------------------
const launcher = process.ppid;
setInterval(() => {
    if (process.ppid !== launcher) process.exit(1); // at once: an orderly end would stop trials whose results are wanted
}, 500).unref();
